"""A mesh of one process that keeps honest books, and can be given one bug: what the oracle's own tests stand on."""

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from chaos.checkers.books import Books, Traffic
from chaos.checkers.expected import Month
from chaos.load.client import Answer
from chaos.load.outcomes import CallFailed, Outcome
from chaos.load.traffic import MONTH

Bug = Literal[
    "none",
    "drop an event",
    "land an event twice",
    "double an order",
    "lose an order",
    "acknowledge before durable",
    "take a payment twice",
    "swallow a leaf",
    "unbalance the ledger",
    "answer with an old order",
]
# Every so many orders are carried out and their answer never arrives.
LOST_ANSWER_EVERY = 5
PATHS = {
    "orders": "/isthmus.orders.v1.Orders/PlaceOrder",
    "payments": "/isthmus.payments.v1.Payments/AuthorizePayment",
    "captures": "/isthmus.payments.v1.Payments/CapturePayment",
}


@dataclass
class ModelMesh:
    """Sends are answered at once. `books` is what the real services would say."""

    bug: Bug = "none"
    impressions: Counter[str] = field(default_factory=Counter)
    clicks: Counter[str] = field(default_factory=Counter)
    pages: int = 0
    orders: dict[str, dict[str, Any]] = field(default_factory=dict)
    order_rows: list[int] = field(default_factory=list)
    payments: dict[str, str] = field(default_factory=dict)
    captures: dict[str, int] = field(default_factory=dict)
    capture_rows: list[int] = field(default_factory=list)
    leaves: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def __post_init__(self) -> None:
        self._numbers = itertools.count(1)
        self._slot_of: dict[str, str] = {}
        self._calls: Counter[str] = Counter()

    async def send(
        self, method: str, target: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        asked = json.loads(body) if body else {}
        path = target.partition("?")[0]
        if path == "/v1/ads:decide":
            return self._ad(asked["slot"])
        if path.startswith("click:"):
            return self._click(path)
        if path.startswith("/v1/content/"):
            self.pages += 1
            return _json({})
        if path == "/v1/orders":
            return self._answered("orders", headers, self._order(asked))
        if path.startswith("/v1/orders/"):
            return self._read(path.rpartition("/")[2])
        if path == "/v1/payments":
            return self._answered("payments", headers, self._payment(asked))
        return self._answered("captures", headers, self._capture(path.split("/")[3].partition(":")[0]))

    def crash(self) -> None:
        """What was acknowledged and not yet durable is gone. An honest mesh has nothing of the kind."""
        if self.bug == "acknowledge before durable":
            last = list(self.orders)[-1]
            self.order_rows.remove(self.orders.pop(last)["total"]["minor"])

    def books(self) -> Books:
        doubled = 1 if self.bug == "land an event twice" else 0
        slots = {
            slot: Traffic(impressions=shown, gross=self.clicks[slot], clicks=self.clicks[slot])
            for slot, shown in self.impressions.items()
        }
        ledger = {"USD": 1 if self.bug == "unbalance the ledger" else 0}
        orders = {MONTH: Month(len(self.order_rows), sum(self.order_rows))}
        captures = {MONTH: Month(len(self.capture_rows), sum(self.capture_rows))}
        return Books(slots, {}, self.pages, 0, 0, doubled, orders, captures, ledger, 0)

    def _ad(self, slot: str) -> Answer:
        number = next(self._numbers)
        self._calls["ad"] += 1
        if not (self.bug == "drop an event" and self._calls["ad"] == 7):
            self.impressions[slot] += 1
        self._slot_of[f"click:{number}"] = slot
        return _json({"click_url": f"click:{number}"})

    def _click(self, url: str) -> Answer:
        self.clicks[self._slot_of[url]] += 1
        return Answer(302, {}, b"")

    def _order(self, asked: dict[str, Any]) -> dict[str, Any]:
        key, amount = asked["idempotency_key"], asked["lines"][0]["amount"]
        known = next((one for one in self.orders.values() if one["key"] == key), None)
        if known is not None and self.bug == "double an order":
            # A retry of what is not idempotent.
            self.order_rows.append(amount["minor"])
        if known is not None:
            return {"order": known}
        order = {"order_id": f"o-{next(self._numbers)}", "key": key, "total": amount}
        self.orders[order["order_id"]] = order
        if not (self.bug == "lose an order" and len(self.orders) == 3):
            self.order_rows.append(amount["minor"])
        return {"order": order}

    def _read(self, order_id: str) -> Answer:
        order = self.orders.get(order_id)
        if order is None:
            return Answer(404, {}, b"{}")
        if self.bug == "answer with an old order":
            order = order | {"total": {"minor": order["total"]["minor"] + 1}}
        return _json({"order": order})

    def _payment(self, asked: dict[str, Any]) -> dict[str, Any]:
        payment_id = self.payments.setdefault(asked["idempotency_key"], f"p-{next(self._numbers)}")
        self.captures.setdefault(payment_id, asked["amount"]["minor"])
        return {"payment": {"payment_id": payment_id, "state": "PAYMENT_STATE_AUTHORIZED"}}

    def _capture(self, payment_id: str) -> dict[str, Any]:
        self.capture_rows.append(self.captures[payment_id])
        if self.bug == "take a payment twice" and len(self.capture_rows) == 2:
            self.capture_rows.append(self.captures[payment_id])
        return {"payment": {"payment_id": payment_id, "state": "PAYMENT_STATE_CAPTURED"}}

    def _answered(self, step: str, headers: Mapping[str, str] | None, answer: dict[str, Any]) -> Answer:
        trace = (headers or {})["traceparent"].split("-")[1]
        self._calls[step] += 1
        if not (self.bug == "swallow a leaf" and step == "captures" and self._calls[step] == 4):
            self.leaves[PATHS[step]].add(trace)
        if step == "orders" and self._calls[step] % LOST_ANSWER_EVERY == 0:
            raise CallFailed("no answer: TimeoutError", Outcome.UNKNOWN)
        return _json(answer)


def _json(value: object) -> Answer:
    return Answer(200, {}, json.dumps(value).encode())
