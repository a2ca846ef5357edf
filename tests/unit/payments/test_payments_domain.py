"""The rules of payments: every kind of posting sums to zero, and no payment goes where it may not."""

from dataclasses import replace

import pytest

from private_core.callers import Caller
from private_core.money import Money
from private_core.payments import domain
from private_core.payments.domain import POSTINGS, Account, Kind, Operation, Order, Payment, Progress, State
from private_core.refusals import Absent, Busy, Duplicate, Malformed, WrongState

PENDING = domain.pending("payment-1", "order-1", Money(2933, "USD"), 5, 6)
AUTHORIZED = replace(PENDING, state=State.AUTHORIZED, member_id="member-1")
CAPTURED = replace(PENDING, state=State.CAPTURED, captured=Money(2933, "USD"), member_id="member-1")


def operation(
    kind: Kind, minor: int = 2933, payment: Payment = PENDING, progress: Progress = Progress.OPEN
) -> Operation:
    return Operation("op-1", kind, progress, Money(minor, "USD"), payment)


@pytest.mark.parametrize("kind", Kind)
def test_the_postings_of_every_kind_sum_to_zero(kind: Kind) -> None:
    assert sum(sign for _, sign in POSTINGS[kind]) == 0


def test_a_number_is_no_orders_id_and_no_payment_begins_with_it() -> None:
    with pytest.raises(Absent, match="ORDER_UNKNOWN"):
        domain.pending("payment-1", "13955501237", Money(2933, "USD"), 5, 6)


def test_a_capture_undoes_exactly_what_its_hold_posted() -> None:
    held, captured = dict(POSTINGS[Kind.HOLD]), dict(POSTINGS[Kind.CAPTURE])
    assert all(captured[account] == -sign for account, sign in held.items())
    assert captured[Account.RECEIVABLE] == 1


@pytest.mark.parametrize(
    ("kind", "progress", "before", "after"),
    [
        (Kind.HOLD, Progress.DONE, State.PENDING, State.AUTHORIZED),
        (Kind.HOLD, Progress.DECLINED, State.PENDING, State.DECLINED),
        (Kind.CAPTURE, Progress.DONE, State.AUTHORIZED, State.CAPTURED),
        (Kind.VOID, Progress.DECLINED, State.AUTHORIZED, State.AUTHORIZED),
        (Kind.CAPTURE, Progress.DECLINED, State.AUTHORIZED, State.AUTHORIZED),
        (Kind.REFUND, Progress.DONE, State.CAPTURED, State.REFUNDED),
        (Kind.REFUND, Progress.DECLINED, State.CAPTURED, State.CAPTURED),
    ],
)
def test_what_an_operation_makes_of_its_payment(kind: Kind, progress: Progress, before: State, after: State) -> None:
    payment = replace(CAPTURED if kind is Kind.REFUND else PENDING, state=before)
    assert domain.after(operation(kind, payment=payment), progress).state is after


def test_a_refund_in_part_leaves_the_payment_captured() -> None:
    after = domain.after(operation(Kind.REFUND, 2932, CAPTURED), Progress.DONE)
    assert (after.state, after.refunded.minor) == (State.CAPTURED, 2932)


def test_only_a_placed_order_is_paid_and_only_with_its_total() -> None:
    order = Order("order-1", "member-1", Money(2933, "USD"), placed=True)
    domain.payable(order, Money(2933, "USD"))
    for wrong, amount in (
        (order, Money(2932, "USD")),
        (order, Money(2933, "EUR")),
        (replace(order, placed=False), order.total),
    ):
        with pytest.raises(WrongState):
            domain.payable(wrong, amount)


def test_the_states_of_a_hold_that_is_taken_and_released_in_parts() -> None:
    part = domain.after(operation(Kind.CAPTURE, 1000, AUTHORIZED), Progress.DONE)
    assert (part.state, part.held.minor) == (State.AUTHORIZED, 1933)
    assert domain.after(operation(Kind.CAPTURE, 1933, part), Progress.DONE).state is State.CAPTURED
    assert domain.after(operation(Kind.VOID, 1933, part), Progress.DONE).state is State.CAPTURED
    refunded = domain.after(operation(Kind.REFUND, 1000, part), Progress.DONE)
    assert refunded.state is State.AUTHORIZED
    assert domain.after(operation(Kind.EXPIRE, 1933, refunded), Progress.DONE).state is State.REFUNDED
    for kind, state in ((Kind.VOID, State.VOIDED), (Kind.EXPIRE, State.EXPIRED)):
        assert domain.after(operation(kind, payment=AUTHORIZED), Progress.DONE).state is state


def test_a_hold_of_nothing_is_captured_or_voided_by_nothing() -> None:
    nothing = replace(domain.pending("p", "o", Money(0, "USD"), 5, 6), state=State.AUTHORIZED)
    assert domain.after(operation(Kind.VOID, 0, nothing), Progress.DONE).state is State.VOIDED
    assert domain.after(operation(Kind.CAPTURE, 0, nothing), Progress.DONE).state is State.CAPTURED


@pytest.mark.parametrize(
    ("payment", "amount", "reason"),
    [
        (CAPTURED, None, "PAYMENT_NOT_AUTHORIZED"),
        (AUTHORIZED, Money(1, "EUR"), "CURRENCY_MISMATCH"),
        (AUTHORIZED, Money(2934, "USD"), "CAPTURE_OVER_HOLD"),
        (AUTHORIZED, Money(2933, "USD"), "PAYMENT_BUSY"),
    ],
)
def test_why_a_hold_cannot_be_taken(payment: Payment, amount: Money | None, reason: str) -> None:
    assert domain.not_capturable(payment, amount).reason == reason


def test_a_second_payment_waits_for_the_first_to_be_decided() -> None:
    assert isinstance(domain.has_payment(PENDING), Busy)
    assert isinstance(domain.has_payment(AUTHORIZED), Duplicate)


def test_a_capture_in_part_takes_something() -> None:
    with pytest.raises(Malformed):
        domain.capturable(Money(0, "USD"))


def test_a_refund_gives_something_back() -> None:
    with pytest.raises(Malformed):
        domain.refundable(Money(0, "USD"))


@pytest.mark.parametrize(
    ("payment", "amount", "reason"),
    [
        (PENDING, Money(1, "USD"), "PAYMENT_NOT_CAPTURED"),
        (CAPTURED, Money(1, "EUR"), "CURRENCY_MISMATCH"),
        (CAPTURED, Money(2934, "USD"), "REFUND_OVER_CAPTURE"),
    ],
)
def test_why_a_refund_is_not_possible(payment: Payment, amount: Money, reason: str) -> None:
    assert domain.not_refundable(payment, amount).reason == reason


def test_another_members_payment_is_refused_as_if_there_were_none() -> None:
    refusals = []
    for payment in (None, CAPTURED):
        with pytest.raises(Absent) as refused:
            domain.readable(payment, Caller("member-2", is_member=True))
        refusals.append(str(refused.value))
    assert refusals[0] == refusals[1]
    assert domain.readable(CAPTURED, Caller("storefront", is_member=False)) is CAPTURED
