"""The state machines are what the READMEs say, and nothing else can be done."""

import itertools
from pathlib import Path

import pytest

from private_core.money import Money
from private_core.orders import domain as orders
from private_core.payments import domain as payments
from private_core.payments.domain import Kind, Operation, Payment, Progress, State

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("room", "transitions"), [("orders", orders.TRANSITIONS), ("payments", payments.TRANSITIONS)])
def test_the_readme_shows_the_state_machine(
    room: str, transitions: tuple[tuple[orders.State | payments.State, orders.State | payments.State, str], ...]
) -> None:
    rows = [f"| {before} | {after} | {when} |" for before, after, when in transitions]
    table = "\n".join(("| state | may become | when |", "|---|---|---|", *rows)) + "\n\n"
    assert table in (ROOT / "private_core" / room / "README.md").read_text(), table


def usd(minor: int) -> Money:
    return Money(minor, "USD")


def test_no_operation_leads_a_payment_anywhere_else() -> None:
    known = {(before, after) for before, after, _ in payments.TRANSITIONS}
    # What an operation may begin on: see the statements that begin it.
    at_hold = [(State.AUTHORIZED, captured, refunded) for captured, refunded in ((0, 0), (4, 0), (4, 4))]
    begins = {
        Kind.HOLD: [(State.PENDING, 0, 0)],
        Kind.CAPTURE: at_hold,
        Kind.VOID: at_hold,
        Kind.EXPIRE: at_hold,
        Kind.REFUND: [(State.AUTHORIZED, 4, 0), (State.CAPTURED, 10, 0), (State.CAPTURED, 10, 9)],
    }
    reached = set()
    for kind, progress in itertools.product(Kind, Progress):
        for (state, captured, refunded), part in itertools.product(begins[kind], (True, False)):
            before = Payment("p", "o", "m", state, usd(10), usd(captured), usd(0), usd(refunded), 1, 2)
            whole = captured - refunded if kind is Kind.REFUND else before.held.minor
            amount = usd(1 if part and kind in (Kind.CAPTURE, Kind.REFUND) else whole)
            after = payments.after(Operation("1", kind, progress, amount, before), progress)
            if after != before:
                reached.add((before.state, after.state))
    assert reached == known


def test_a_decided_order_is_placed_or_cancelled() -> None:
    known = {(before, after) for before, after, _ in orders.TRANSITIONS}
    for live in (True, False):
        assert (orders.State.CANCELLING, orders.decided(live)) in known
