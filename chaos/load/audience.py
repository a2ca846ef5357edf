"""The public: sees ads, clicks on some of them, reads a page now and then. No request is sent twice."""

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import TypeVar
from urllib.parse import urlencode

import msgspec

from chaos.load.catalog import LOCALES, slug
from chaos.load.client import PublicClient
from chaos.load.impressions import ImpressionRow
from chaos.load.outcomes import CallFailed, Outcomes
from chaos.load.pace import Pace

KINDS = ("ad", "click", "page")
READS_EVERY = 10

T = TypeVar("T")


class Creative(msgspec.Struct):
    campaign_id: str
    title: str


class Ad(msgspec.Struct):
    """What the public sees of a DecideResponse."""

    impression_id: str
    creative: Creative
    click_url: str


class _Decision(msgspec.Struct):
    impression_id: str
    click_url: str
    creative: Creative | None = None


class Audience:
    """`landings` says for each campaign that we published where a click must lead."""

    def __init__(self, client: PublicClient, outcomes: Outcomes, landings: Mapping[str, str]) -> None:
        self._client = client
        self._outcomes = outcomes
        self._landings = landings
        self._etags: dict[str, str] = {}

    async def play(self, rows: Sequence[ImpressionRow], pace: Pace, at_once: int) -> None:
        """Every row once, in their order, `at_once` at a time."""
        waiting = iter(enumerate(rows, start=1))

        async def viewer() -> None:
            for number, row in waiting:
                await pace.hold_impressions()
                await self._see(row, reads=number % READS_EVERY == 0)
                pace.impressions.done += 1

        async with asyncio.TaskGroup() as viewers:
            for _ in range(at_once):
                viewers.create_task(viewer())

    async def ad(self, slot: str, features: Mapping[str, str], source_time_us: int) -> Ad:
        """
        Raises:
            CallFailed: no answer, or none that names an ad and where a click on it is taken.
        """
        asked = {"slot": slot, "source_time_us": source_time_us}
        asked |= {f"features.{name}": value for name, value in features.items()}
        answer = await self._client.send("GET", f"/v1/ads:decide?{urlencode(asked)}")
        if answer.status != 200:
            raise answer.refused()
        try:
            decision = msgspec.json.decode(answer.body, type=_Decision)
        except msgspec.MsgspecError as error:
            raise CallFailed(f"the ad is not what the contract says: {error}") from error
        if not decision.impression_id or decision.creative is None:
            raise CallFailed("no ad for the slot")
        if not decision.click_url.startswith(f"{self._client.url}/v1/clicks/"):
            raise CallFailed("the click URL leads elsewhere")
        return Ad(decision.impression_id, decision.creative, decision.click_url)

    async def click(self, ad: Ad, source_time_us: int) -> None:
        """Follow the ad's click URL as far as the redirect to its landing page.

        Raises:
            CallFailed: no answer, or one that leads elsewhere.
        """
        answer = await self._client.send("GET", f"{ad.click_url}?source_time_us={source_time_us}")
        if answer.status != 302:
            raise answer.refused()
        landing = answer.headers.get("location", "")
        if landing != self._landings.get(ad.creative.campaign_id, landing) or not landing.startswith("https://"):
            raise CallFailed("the click does not lead to its campaign's landing page")

    async def page(self, page: str, locale: str, source_time_us: int, whole: bool = False) -> bytes:
        """Read a page, or make sure that the one we know is the newest. Returns the body; empty when not modified.

        `whole` asks for the body even where we know the page.

        Raises:
            CallFailed: no answer, or one without ETag, or not modified although we knew none.
        """
        path = f"/v1/content/{page}?locale={locale}"
        known = None if whole else self._etags.get(path)
        conditional = {"if-none-match": known} if known else None
        answer = await self._client.send("GET", f"{path}&source_time_us={source_time_us}", headers=conditional)
        if answer.status not in (200, 304) or (answer.status == 304 and known is None):
            raise answer.refused()
        if not answer.headers.get("etag"):
            raise CallFailed("the page has no ETag")
        self._etags[path] = answer.headers["etag"]
        return answer.body

    async def _see(self, row: ImpressionRow, reads: bool) -> None:
        ad = await self._counted("ad", self.ad(row.slot, row.features, row.source_time_us))
        if row.clicked and ad:
            await self._counted("click", self.click(ad, row.source_time_us))
        if reads:
            locale = LOCALES[row.item % len(LOCALES)]
            await self._counted("page", self.page(slug(row), locale, row.source_time_us))

    async def _counted(self, kind: str, call: Awaitable[T]) -> T | None:
        started = time.monotonic()
        try:
            result = await call
        except CallFailed as failure:
            self._outcomes.bad(kind, failure)
            return None
        self._outcomes.ok(kind, time.monotonic() - started)
        return result
