"""The shop's own system: a client of the sensitive calls, with a token and with idempotency keys made from the rows."""

import time
from collections.abc import Mapping
from typing import Literal, TypeVar

import msgspec
import stamina
from google.protobuf import json_format
from google.protobuf.message import Message
from isthmus.catalog.v1.catalog_pb2 import Campaign, ContentItem

from chaos.load.client import Answer
from chaos.load.outcomes import CallFailed, Outcome, Outcomes
from chaos.load.token import PatientToken
from chaos.load.transactions import CURRENCY, Purchase

CLIENT_ID = "storefront"
SCOPE = "members.write orders.read orders.write payments.write catalog.write"
KINDS = ("publish", "member", "order", "payment", "capture")
ATTEMPTS = 8
RETRY_WITHIN_S = 60.0
REPEATABLE = frozenset({503, 504})

A = TypeVar("A")


class _Order(msgspec.Struct):
    order_id: str


class _Placed(msgspec.Struct):
    """What is used of a PlaceOrderResponse."""

    order: _Order


class _HeldPayment(msgspec.Struct):
    payment_id: str
    state: Literal["PAYMENT_STATE_AUTHORIZED"]


class _Held(msgspec.Struct):
    """What is used of an AuthorizePaymentResponse. Any other state is a failure."""

    payment: _HeldPayment


class _TakenPayment(msgspec.Struct):
    state: Literal["PAYMENT_STATE_CAPTURED"]


class _Taken(msgspec.Struct):
    """What is used of a CapturePaymentResponse. Any other state is a failure."""

    payment: _TakenPayment


class _Registered(msgspec.Struct):
    member_id: str


class _Published(msgspec.Struct):
    """Of the answer to a publication nothing is used."""


class _MayPass(CallFailed):
    """A failure that may be over at the next try. Only calls that may safely be repeated are."""


class Storefront:
    """Sends each call until it is answered or ATTEMPTS are used up; `run` keeps the keys of two runs apart."""

    def __init__(self, token: PatientToken, outcomes: Outcomes, run: str) -> None:
        self._token = token
        self._outcomes = outcomes
        self._run = run

    async def publish_campaign(self, campaign: Campaign) -> None:
        path = f"/v1/campaigns/{campaign.campaign_id}"
        await self._call("publish", "PUT", path, _json(campaign), _Published)

    async def publish_item(self, item: ContentItem) -> None:
        path = f"/v1/content-items/{item.slug}/{item.locale}"
        await self._call("publish", "PUT", path, _json(item), _Published)

    async def register(self, customer: str, number: int) -> str:
        """Register a customer of the file under made-up personal data; returns the member's id."""
        body = {"idempotency_key": f"{self._run}-member-{customer}", **personal(self._run, customer, number)}
        answer = await self._call("member", "POST", "/v1/members", msgspec.json.encode(body), _Registered)
        return answer.member_id

    async def buy(self, member_id: str, purchase: Purchase) -> None:
        """Place the order, authorise its amount, capture it.

        Raises:
            CallFailed: one of the three was not answered, or not as the contract says.
        """
        key = f"{self._run}-line-{purchase.line}"
        amount = {"minor": purchase.amount_minor, "currency": CURRENCY}
        order = {
            "idempotency_key": f"{key}-order",
            "member_id": member_id,
            "lines": [{"sku": "cd", "quantity": purchase.pieces, "amount": amount}],
            "source_time_us": purchase.source_time_us,
        }
        placed = await self._post("order", "/v1/orders", order, _Placed)
        payment = {
            "idempotency_key": f"{key}-payment",
            "order_id": placed.order.order_id,
            "amount": amount,
            "source_time_us": purchase.source_time_us,
        }
        held = await self._post("payment", "/v1/payments", payment, _Held)
        path = f"/v1/payments/{held.payment.payment_id}:capture"
        await self._post("capture", path, {"idempotency_key": f"{key}-capture"}, _Taken)

    async def _post(self, kind: str, path: str, body: Mapping[str, object], answer: type[A]) -> A:
        return await self._call(kind, "POST", path, msgspec.json.encode(body), answer)

    async def _call(self, kind: str, method: str, path: str, body: bytes, answer: type[A]) -> A:
        started = time.monotonic()
        try:
            async for attempt in stamina.retry_context(
                on=_MayPass, attempts=ATTEMPTS, timeout=RETRY_WITHIN_S, wait_initial=0.1, wait_max=3.0
            ):
                with attempt:
                    raw = await self._once(method, path, body)
            answered = msgspec.json.decode(raw.body, type=answer)
        except msgspec.MsgspecError as error:
            failure = CallFailed(f"the answer is not what was asked for: {error}")
            self._outcomes.bad(kind, failure)
            raise failure from error
        except CallFailed as failed:
            self._outcomes.bad(kind, failed)
            raise
        self._outcomes.ok(kind, time.monotonic() - started)
        return answered

    async def _once(self, method: str, path: str, body: bytes) -> Answer:
        try:
            answer = await self._token.send(method, path, body, {"content-type": "application/json"})
        except CallFailed as failure:
            if failure.outcome is Outcome.UNKNOWN:
                raise _MayPass(str(failure), Outcome.UNKNOWN) from failure
            raise
        if answer.status in REPEATABLE:
            raise _MayPass(str(answer.refused()))
        if answer.status != 200:
            raise answer.refused()
        return answer


def personal(run: str, customer: str, number: int) -> dict[str, str]:
    """Made-up personal data of a run's customer, the same at every call."""
    return {
        # A run's numbers are apart from another run's, and all are valid Chinese mobile numbers.
        "phone": f"+8613{(int(run, 16) + number) % 10**9:09}",
        "name": f"Customer {customer}",
        "address": f"{number} Isthmus Road",
    }


def _json(message: Message) -> bytes:
    return json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None).encode()
