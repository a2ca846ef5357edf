"""The sandbox provider: one key is one operation, XTS is declined, its memory is bounded."""

import pytest

from private_core.money import Money
from private_core.payments.sandbox.domain import Asked, Memory
from private_core.refusals import Duplicate

HOLD = Asked("hold", "payment-1", Money(999, "USD"))


def test_one_key_is_one_operation() -> None:
    memory = Memory(10)
    assert memory.decide("key-1", HOLD) == memory.decide("key-1", HOLD)
    assert len(memory) == 1
    assert memory.decide("key-1", HOLD).approved


def test_a_key_does_not_name_two_things() -> None:
    memory = Memory(10)
    memory.decide("key-1", HOLD)
    with pytest.raises(Duplicate):
        memory.decide("key-1", Asked("take", "payment-1", Money(999, "USD")))


def test_the_currency_for_testing_is_declined() -> None:
    decision = Memory(10).decide("key-1", Asked("hold", "payment-1", Money(1, "XTS")))
    assert not decision.approved
    assert decision.decline_reason


def test_the_oldest_is_forgotten_first_and_decided_alike_again() -> None:
    memory = Memory(2)
    first = memory.decide("key-1", HOLD)
    for number in (2, 3):
        memory.decide(f"key-{number}", HOLD)
    assert len(memory) == 2
    assert memory.decide("key-1", HOLD) == first
