"""The rules of payments: every kind of posting sums to zero, and no payment goes where it may not."""

from dataclasses import replace

import pytest

from private_core.callers import Caller
from private_core.money import Money
from private_core.payments import domain
from private_core.payments.domain import POSTINGS, Account, Kind, Operation, Order, Payment, Progress, State
from private_core.refusals import Absent, Busy, Duplicate, Malformed, WrongState

PENDING = domain.pending("payment-1", "order-1", Money(2933, "USD"), 5)
CAPTURED = replace(PENDING, state=State.CAPTURED, captured=Money(2933, "USD"), member_id="member-1")


def operation(
    kind: Kind, minor: int = 2933, payment: Payment = PENDING, progress: Progress = Progress.OPEN
) -> Operation:
    return Operation("op-1", kind, progress, Money(minor, "USD"), payment)


@pytest.mark.parametrize("kind", Kind)
def test_the_postings_of_every_kind_sum_to_zero(kind: Kind) -> None:
    assert sum(sign for _, sign in POSTINGS[kind]) == 0


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


def test_another_calls_operation_is_taken_over_only_when_that_call_is_gone() -> None:
    hold = operation(Kind.HOLD)
    assert domain.taken_over(hold, hold.amount, abandoned=True) is hold
    with pytest.raises(Busy):
        domain.taken_over(hold, hold.amount, abandoned=False)
    with pytest.raises(Duplicate):
        domain.taken_over(hold, Money(1, "USD"), abandoned=True)


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
