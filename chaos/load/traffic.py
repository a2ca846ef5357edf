"""A drill's traffic: the rows of the data files as open-loop arrivals, each call sent once and its outcome recorded."""

import asyncio
import itertools
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from chaos.load.acknowledged import Acknowledged, Purchase
from chaos.load.client import Answer
from chaos.load.impressions import ImpressionRow
from chaos.load.outcomes import CallFailed, Outcome
from chaos.load.timeline import Timeline
from chaos.load.transactions import CURRENCY
from chaos.load.transactions import Purchase as PurchaseRow

JSON = {"content-type": "application/json"}
# One row in so many is clicked although the files click fewer: clicks must be seen in short runs too.
CLICKED_EVERY = 12
READS_EVERY = 10
# One order in so many is read again at once by whoever placed it.
READ_BACK_EVERY = 3
# Far from any month of the data files, so that the books of a drill stand by themselves.
SOURCE_TIME_US = 455_000_000_000_000
MONTH = "1984-06"
PREFIX = "drill"
SETTLE_ATTEMPTS = 40
SETTLE_PAUSE_S = 0.5


class Sends(Protocol):
    """How a request reaches the mesh; CallFailed when no answer came."""

    async def send(
        self, method: str, target: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer: ...


def slot_of(row: ImpressionRow) -> str:
    return f"{PREFIX}-{row.slot}"


class Traffic:
    """`shop` sends the sensitive calls, in the shop's name."""

    def __init__(
        self,
        client: Sends,
        shop: Sends,
        timeline: Timeline,
        run: str,
        impressions: Sequence[ImpressionRow],
        purchases: Sequence[PurchaseRow],
        member_ids: Sequence[str],
        pages: Sequence[str],
    ) -> None:
        self.acknowledged = Acknowledged()
        # How often a sensitive call that failed is sent again at once, as clients without patience do.
        self.impatience = 0
        self._client = client
        self._shop = shop
        self._timeline = timeline
        self._run = run
        self._began = 0.0
        self._rows = itertools.cycle(enumerate(impressions, start=1))
        self._purchases = itertools.cycle(purchases)
        self._numbers = itertools.count(1)
        self._members = itertools.cycle(member_ids)
        self._pages = itertools.cycle(pages)

    def start(self) -> None:
        """The timeline's zero is now."""
        self._began = asyncio.get_running_loop().time()

    @property
    def now_s(self) -> float:
        """Seconds since the traffic's beginning, the clock of the timeline."""
        return asyncio.get_running_loop().time() - self._began

    async def view(self, due: float) -> None:
        """One row: an ad, perhaps a click on it, now and then a page."""
        number, row = next(self._rows)
        promised = self.acknowledged.impression(slot_of(row))
        body = msgspec.json.encode({"slot": slot_of(row), "features": row.features, "source_time_us": SOURCE_TIME_US})
        promised.open += 1
        answer = await self._call("ad", due, "POST", "/v1/ads:decide", body, JSON, good=_shows_an_ad)
        if answer is None:
            return
        promised.open -= 1
        promised.acknowledged += 1
        if row.clicked or number % CLICKED_EVERY == 0:
            await self._click(slot_of(row), msgspec.json.decode(answer.body)["click_url"])
        if number % READS_EVERY == 0:
            await self._read(next(self._pages))

    async def buy(self, due: float) -> None:
        """One purchase: an order, the hold of its amount, its capture. Ends at the first step that fails."""
        row = next(self._purchases)
        purchase = Purchase(next(self._numbers), next(self._members), row.amount_minor, row.pieces)
        self.acknowledged.purchases.append(purchase)
        if not await self._order(purchase, due):
            return
        if purchase.number % READ_BACK_EVERY == 0:
            await self._read_back(purchase)
        if await self._pay(purchase):
            await self._capture(purchase)

    async def settle(self) -> list[str]:
        """Send what is not known to be done again, under the same keys, until it is. Returns what stays open."""
        # Not part of the run's picture: this is the shop's clerk, not the crowd.
        self._timeline = Timeline()
        left = [one for one in self.acknowledged.purchases if not one.captured]
        at_once = asyncio.Semaphore(8)

        async def finish(purchase: Purchase) -> str:
            async with at_once:
                for _ in range(SETTLE_ATTEMPTS):
                    if await self._finish(purchase):
                        return ""
                    await asyncio.sleep(SETTLE_PAUSE_S)
            return f"purchase {purchase.number}"

        return [one for one in await asyncio.gather(*map(finish, left)) if one]

    async def missing_orders(self, sample: int) -> list[str]:
        """Acknowledged orders, up to `sample` of them evenly chosen, that cannot be read as they were placed."""
        placed = [one for one in self.acknowledged.purchases if one.order_id]
        chosen = placed[:: max(1, len(placed) // sample)] if placed else []
        wrong = []
        for purchase in chosen:
            for _ in range(SETTLE_ATTEMPTS):
                try:
                    answer = await self._shop.send("GET", f"/v1/orders/{purchase.order_id}")
                except CallFailed:
                    answer = Answer(503, {}, b"")
                if answer.status not in (429, 503, 504):
                    break
                await asyncio.sleep(SETTLE_PAUSE_S)
            if answer.status != 200 or _total(answer.body) != purchase.amount_minor:
                wrong.append(f"order {purchase.order_id}: HTTP {answer.status}")
        return wrong

    async def _finish(self, purchase: Purchase) -> bool:
        """Whatever of the three steps is not known to be done, again."""
        if not purchase.order_id and not await self._order(purchase, None):
            return False
        if not purchase.payment_id and not await self._pay(purchase):
            return False
        return purchase.captured or await self._capture(purchase)

    async def _click(self, slot: str, url: str) -> None:
        promised = self.acknowledged.click(slot)
        promised.open += 1
        if await self._call("click", None, "GET", f"{url}?source_time_us={SOURCE_TIME_US}", good=_redirects):
            promised.open -= 1
            promised.acknowledged += 1

    async def _read(self, page: str) -> None:
        self.acknowledged.pages.open += 1
        if await self._call("page", None, "GET", f"/v1/content/{page}?source_time_us={SOURCE_TIME_US}"):
            self.acknowledged.pages.open -= 1
            self.acknowledged.pages.acknowledged += 1

    async def _order(self, purchase: Purchase, due: float | None) -> bool:
        amount = {"minor": purchase.amount_minor, "currency": CURRENCY}
        body = {
            "idempotency_key": self._key(purchase, "order"),
            "member_id": purchase.member_id,
            "lines": [{"sku": "cd", "quantity": purchase.pieces, "amount": amount}],
            "source_time_us": SOURCE_TIME_US,
        }
        path = "/isthmus.orders.v1.Orders/PlaceOrder"
        answer = await self._sensitive("order", due, "/v1/orders", body, purchase, path)
        purchase.order_id = answer["order"]["order_id"] if answer else ""
        return answer is not None

    async def _pay(self, purchase: Purchase) -> bool:
        body = {
            "idempotency_key": self._key(purchase, "payment"),
            "order_id": purchase.order_id,
            "amount": {"minor": purchase.amount_minor, "currency": CURRENCY},
            "source_time_us": SOURCE_TIME_US,
        }
        path = "/isthmus.payments.v1.Payments/AuthorizePayment"
        answer = await self._sensitive("payment", None, "/v1/payments", body, purchase, path)
        if answer is None or answer["payment"]["state"] != "PAYMENT_STATE_AUTHORIZED":
            return False
        purchase.payment_id = answer["payment"]["payment_id"]
        return True

    async def _capture(self, purchase: Purchase) -> bool:
        body = {"idempotency_key": self._key(purchase, "capture")}
        path = "/isthmus.payments.v1.Payments/CapturePayment"
        target = f"/v1/payments/{purchase.payment_id}:capture"
        answer = await self._sensitive("capture", None, target, body, purchase, path)
        purchase.captured = answer is not None and answer["payment"]["state"] == "PAYMENT_STATE_CAPTURED"
        return purchase.captured

    async def _read_back(self, purchase: Purchase) -> None:
        """Whoever placed an order reads it: that it is not there, or is another, is worse than no answer."""
        self.acknowledged.reads += 1
        target = f"/v1/orders/{purchase.order_id}"
        answer = await self._call("read", None, "GET", target, by=self._shop, good=_found_or_not)
        if answer is not None and (answer.status == 404 or _total(answer.body) != purchase.amount_minor):
            self.acknowledged.stale_reads.append(purchase.order_id)

    def _key(self, purchase: Purchase, step: str) -> str:
        return f"{PREFIX}-{self._run}-{purchase.number}-{step}"

    async def _sensitive(
        self, kind: str, due: float | None, target: str, body: object, purchase: Purchase, method: str
    ) -> dict[str, Any] | None:
        started = asyncio.get_running_loop().time() if due is None else due
        encoded = msgspec.json.encode(body)
        for again in range(1 + self.impatience):
            trace = secrets.token_hex(16)
            headers = JSON | {"traceparent": f"00-{trace}-{trace[:16]}-01"}
            due = None if again else started
            answer = await self._call(kind, due, "POST", target, encoded, headers, by=self._shop)
            if answer is not None:
                break
        else:
            return None
        purchase.traces.append((method, trace))
        decoded: dict[str, Any] = msgspec.json.decode(answer.body)
        return decoded

    async def _call(
        self,
        kind: str,
        due: float | None,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        by: Sends | None = None,
        good: Callable[[Answer], bool] = lambda answer: answer.status == 200,
    ) -> Answer | None:
        """Send once and record. None when no answer came, or none that is `good`."""
        loop = asyncio.get_running_loop()
        started = loop.time() if due is None else due
        timeline = self._timeline
        try:
            answer = await (by or self._client).send(method, target, body, headers)
            if not good(answer):
                if answer.status == 503:
                    timeline.unavailable += 1
                    timeline.unavailable_with_retry_after += "retry-after" in answer.headers
                # Beyond a gateway's deadline nobody knows what became of it.
                outcome = Outcome.UNKNOWN if answer.status in (500, 502, 503, 504) else Outcome.FAILED
                raise CallFailed(_reason(answer), outcome)
        except CallFailed as failure:
            timeline.bad(kind, started - self._began, loop.time() - started, failure)
            return None
        timeline.ok(kind, started - self._began, loop.time() - started)
        return answer


def _total(body: bytes) -> int | None:
    try:
        return int(msgspec.json.decode(body)["order"]["total"]["minor"])
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):
        return None


def _shows_an_ad(answer: Answer) -> bool:
    return answer.status == 200 and b'"click_url"' in answer.body


def _redirects(answer: Answer) -> bool:
    return answer.status == 302


def _found_or_not(answer: Answer) -> bool:
    """That an order is not there is an answer, though not the one that was hoped for."""
    return answer.status in (200, 404)


def _reason(answer: Answer) -> str:
    """Status and reason of a problem document (RFC 9457), without what is different in each."""
    try:
        return f"HTTP {answer.status} {msgspec.json.decode(answer.body)['reason']}"
    except (msgspec.DecodeError, KeyError, TypeError):
        return str(answer.refused())
