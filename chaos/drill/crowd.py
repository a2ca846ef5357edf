"""The crowd of one drill: publishes what it will ask for, then sends open-loop traffic until it is told to stop."""

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from isthmus.catalog.v1.catalog_pb2 import AdCreative, Campaign, ContentItem
from isthmus.payments.v1.payments_pb2 import GetTrialBalanceRequest
from isthmus.payments.v1.payments_pb2_grpc import LedgerStub

from chaos.checkers.books import Books, Channel, Freshness, read_books, read_freshness, read_settled
from chaos.checkers.operator import operator
from chaos.drill.errors import DrillRefused
from chaos.drill.spec import Load
from chaos.drill.target import Target
from chaos.load.arrivals import Arrivals, poisson
from chaos.load.client import PublicClient
from chaos.load.outcomes import CallFailed, Outcomes
from chaos.load.rows import read_rows
from chaos.load.storefront import CLIENT_ID, SCOPE, Storefront, personal
from chaos.load.timeline import Timeline
from chaos.load.token import PatientToken
from chaos.load.traffic import JSON, PREFIX, Traffic, slot_of
from mesh.errors import MeshError

ROWS_MAX = 3000
CONNECTIONS_MAX = 200
MEMBERS = 6
LIVE_WITHIN_S = 90.0
LIVE_ANSWERS_PER_NODE = 12
LIVE_AT_ONCE = 6
LEDGER_EVERY_S = 2.0
LEDGER_DEADLINE_S = 4.0
PAGE = f"{PREFIX}-page"
# An answer that names no impression leaves none.
NOTHING_SHOWN = b'"impression_id":""'


@dataclass
class Ledger:
    """What reading the trial balance again and again has shown."""

    reads: int = 0
    unanswered: int = 0
    unbalanced: list[str] = field(default_factory=list)


class Crowd:
    """`open`, `begin`, `end`, `close`, in this order; everything on one loop."""

    def __init__(self, target: Target, load: Load, seed: int) -> None:
        self.run = secrets.token_hex(4)
        self.timeline = Timeline()
        self.ledger = Ledger()
        # Microseconds since the epoch: before the first member, and before the traffic.
        self.opened_us = 0
        self.began_us = 0
        self.refused = 0
        self._registered = 0
        self._target = target
        self._load = load
        self._seed = seed
        self._arrivals: list[Arrivals] = []
        self._arriving: list[asyncio.Task[None]] = []
        self._watching: asyncio.Task[None] | None = None
        self._stack = contextlib.AsyncExitStack()

    async def open(self) -> None:
        """Publish, register, wait until every edge node shows it, read the books.

        Raises:
            DrillRefused: the mesh does not take it.
        """
        self.opened_us = time.time_ns() // 1000
        rows = read_rows(None, None, self._target.settings.cache, ROWS_MAX)
        home = self._target.home
        root = home.root / "ca" / "public" / "root.pem"
        key = home.run("oauth") / "clients" / f"{CLIENT_ID}.pem"
        url = self._target.urls["edge_gateway"]
        self.client = await self._stack.enter_async_context(PublicClient(url, root, CONNECTIONS_MAX))
        self._channel: Channel = await self._stack.enter_async_context(operator(home, self._target.table))
        token = self._token = PatientToken(self.client, CLIENT_ID, key, SCOPE)
        self._shop = shop = Storefront(token, Outcomes(), self.run)
        self.slots = sorted({slot_of(row) for row in rows.impressions})
        nothing_sent = await read_books(self._channel)
        try:
            await shop.publish_item(_page(self.run))
            await shop.publish_campaign(_campaign(self.slots, self.run))
            members = [await self.register_one() for _ in range(MEMBERS)]
            shown = await self._wait_live()
        except CallFailed as failure:
            raise DrillRefused(
                f"The mesh does not take a drill's traffic: {failure}", "See `isthmus check`"
            ) from failure

        def landed(books: Books) -> bool:
            slot = books.since(nothing_sent).slots.get(self.slots[0])
            return slot is not None and slot.impressions >= shown

        # What was asked to find out who is live is no traffic of the drill, and would be counted as doubled.
        self.before: Books = await read_settled(self._channel, landed)
        if not landed(self.before):
            raise DrillRefused("The warehouse does not hold what the edge has taken", "See `isthmus check`")
        self.traffic = Traffic(
            self.client, token, self.timeline, self.run, rows.impressions, rows.purchases, members, [PAGE]
        )

    @property
    def personal(self) -> tuple[bytes, ...]:
        """Personal values of this run's members, as the storefront made them up."""
        made_up = (personal(self.run, self._customer(number), number) for number in range(self._registered))
        return tuple(value.encode() for one in made_up for value in one.values())

    async def register_one(self) -> str:
        """A new member's id.

        Raises:
            CallFailed: the mesh does not take one.
        """
        number = self._registered
        self._registered += 1
        return await self._shop.register(self._customer(number), number)

    def begin(self) -> None:
        self.began_us = time.time_ns() // 1000
        self.traffic.start()
        self._arrive(self._load.public_per_s, self.traffic.view)
        self._arrive(self._load.purchases_per_s, self.traffic.buy)
        self._watching = asyncio.create_task(self._watch_ledger())

    async def surge(self, times: float, for_s: float) -> None:
        """So many times the public's rate, for so long; returns at once."""
        more = self._arrive(self._load.public_per_s * (times - 1), self.traffic.view)
        asyncio.get_running_loop().call_later(for_s, more.stop)

    async def end(self) -> None:
        """No more arrivals; returns when all that was sent is answered."""
        for arrivals in self._arrivals:
            arrivals.stop()
        await asyncio.gather(*self._arriving)
        if self._watching is not None:
            self._watching.cancel()
        self.refused = sum(one.refused for one in self._arrivals)

    async def close(self) -> None:
        for task in self._arriving:
            task.cancel()
        if self._watching is not None:
            self._watching.cancel()
        await self._stack.aclose()

    def _customer(self, number: int) -> str:
        return f"{PREFIX}-{self.run}-{number}"

    def _arrive(self, rate_per_s: float, send: Callable[[float], Awaitable[None]]) -> Arrivals:
        arrivals = Arrivals(poisson(rate_per_s, self._seed + len(self._arrivals)), send)
        self._arrivals.append(arrivals)
        self._arriving.append(asyncio.create_task(arrivals.run()))
        return arrivals

    async def books(self) -> Books:
        """What the mesh's books have gained since before the traffic, in the drill's own slots."""
        return (await read_books(self._channel)).since(self.before)

    async def freshness(self) -> Freshness:
        return await read_freshness(self._channel, self.began_us)

    @property
    def channel(self) -> Channel:
        return self._channel

    async def token(self) -> str:
        """What the traffic shows now."""
        return await self._token.text()

    async def accepts(self, token: str) -> bool:
        """Whether the mesh takes a call with this token for one that is signed in."""
        answer = await self._token.send_with(token, "GET", "/v1/orders/none")
        return answer.status != 401

    async def _wait_live(self) -> int:
        """Ask until so many answers in a row show this run that no edge node can have been left out.

        Returns how many ads were shown for it.
        """
        nodes = len(self._target.of("edge"))
        asking = json.dumps({"slot": self.slots[0]}).encode()
        in_a_row, shown, ends = 0, 0, time.monotonic() + LIVE_WITHIN_S

        async def shows() -> bool:
            nonlocal shown
            answers = (
                await self.client.send("POST", "/v1/ads:decide", asking, JSON),
                await self.client.send("GET", f"/v1/content/{PAGE}"),
            )
            shown += answers[0].status == 200 and NOTHING_SHOWN not in answers[0].body
            return all(answer.status == 200 and self.run.encode() in answer.body for answer in answers)

        while in_a_row < LIVE_ANSWERS_PER_NODE * nodes:
            if time.monotonic() > ends:
                raise CallFailed(f"what was published is not live on every edge node after {LIVE_WITHIN_S:g} s")
            live = await asyncio.gather(*(shows() for _ in range(LIVE_AT_ONCE)))
            in_a_row = in_a_row + len(live) if all(live) else 0
            if not in_a_row:
                await asyncio.sleep(0.1)
        return shown

    async def _watch_ledger(self) -> None:
        while True:
            ledger = LedgerStub(self._channel("payments"))
            try:
                balance = await ledger.GetTrialBalance(GetTrialBalanceRequest(), timeout=LEDGER_DEADLINE_S)
            except MeshError:
                # Nothing read is nothing wrong: whether it must be readable is another check's business.
                self.ledger.unanswered += 1
            else:
                self.ledger.reads += 1
                self.ledger.unbalanced += [f"{sum_.currency} {sum_.minor}" for sum_ in balance.sums if sum_.minor]
            await asyncio.sleep(LEDGER_EVERY_S)


def _campaign(slots: list[str], run: str) -> Campaign:
    creative = AdCreative(
        creative_id=f"{PREFIX}-1",
        title=f"Drill {run}",
        image_url="https://storefront.example/images/drill.jpg",
        landing_url="https://storefront.example/drill",
    )
    return Campaign(campaign_id=PREFIX, slots=slots, weight=1, creatives=[creative])


def _page(run: str) -> ContentItem:
    body = f"<p>Drill {run}</p>"
    return ContentItem(slug=PAGE, locale="en", title="Drill", body=body, default_locale=True, max_age_s=60)
