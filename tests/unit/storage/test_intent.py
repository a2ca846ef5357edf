"""An intent is who, what and which key; the body is told apart from it."""

import time

import pytest
from isthmus.orders.v1 import orders_pb2 as pb

from mesh.call import Call, Claims, begin
from mesh.contract import load
from mesh.spiffe import SpiffeId
from private_core.storage.idempotency import intent_of

PLACE, CANCEL = "PlaceOrder", "CancelOrder"


def intent(key="key-0001", method=PLACE, subject="member-1", member="member-1"):
    policy = load().methods[f"/isthmus.orders.v1.Orders/{method}"]
    claims = None if subject is None else Claims(subject, "storefront", policy.scopes, 0, "token")
    begin(Call(policy, SpiffeId("private", "core-gateway"), time.monotonic() + 1, claims=claims))
    return intent_of(pb.PlaceOrderRequest(idempotency_key=key, member_id=member), key)


def test_the_same_call_is_the_same_intent_with_the_same_body():
    assert intent() == intent()


@pytest.mark.parametrize("other", [{"key": "key-0002"}, {"method": CANCEL}, {"subject": "member-2"}, {"subject": None}])
def test_another_key_method_or_caller_is_another_intent(other):
    assert intent(**other).id != intent().id


def test_another_body_is_the_same_intent_told_otherwise():
    assert intent(member="member-2").id == intent().id
    assert intent(member="member-2").body != intent().body


def test_a_key_is_not_stored_as_it_is():
    assert b"key-0001" not in intent().id
    assert len(intent().name) == 32
