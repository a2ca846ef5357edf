"""An intent is who, what and which key; the body is told apart from it."""

import time
from contextvars import copy_context
from typing import Any

import pytest
from isthmus.orders.v1 import orders_pb2 as pb

from mesh.call import Call, Claims, begin
from mesh.contract import load
from mesh.spiffe import SpiffeId
from private_core.storage.idempotency import Intent, intent_of

PLACE, CANCEL = "PlaceOrder", "CancelOrder"


def intent(
    key: str = "key-0001", method: str = PLACE, subject: str | None = "member-1", member: str = "member-1"
) -> Intent:
    policy = load().methods[f"/isthmus.orders.v1.Orders/{method}"]
    claims = None if subject is None else Claims(subject, "storefront", policy.scopes, 0, "token")
    call = Call(policy, SpiffeId("private", "core-gateway"), time.monotonic() + 1, claims=claims)

    def within() -> Intent:
        begin(call)
        return intent_of(pb.PlaceOrderRequest(idempotency_key=key, member_id=member), key)

    # The call ends with its context, and is not found by the next test.
    return copy_context().run(within)


def test_the_same_call_is_the_same_intent_with_the_same_body() -> None:
    assert intent() == intent()


@pytest.mark.parametrize("other", [{"key": "key-0002"}, {"method": CANCEL}, {"subject": "member-2"}, {"subject": None}])
def test_another_key_method_or_caller_is_another_intent(other: dict[str, Any]) -> None:
    assert intent(**other).id != intent().id


def test_another_body_is_the_same_intent_told_otherwise() -> None:
    assert intent(member="member-2").id == intent().id
    assert intent(member="member-2").body != intent().body


def test_a_key_is_not_stored_as_it_is() -> None:
    assert b"key-0001" not in intent().id
    assert len(intent().name) == 32
