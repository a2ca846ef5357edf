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
    begins = {Kind.HOLD: State.PENDING, Kind.CAPTURE: State.AUTHORIZED, Kind.REFUND: State.CAPTURED}
    for kind, progress, amount in itertools.product(Kind, Progress, (1, 10)):
        captured = usd(10 if begins[kind] is State.CAPTURED else 0)
        before = Payment("p", "o", "m", begins[kind], usd(10), captured, usd(0), 1)
        after = payments.after(Operation("1", kind, progress, usd(amount), before), progress)
        unchanged = after == before
        assert unchanged or (before.state, after.state) in known, (kind, progress)


def test_a_decided_order_is_placed_or_cancelled() -> None:
    known = {(before, after) for before, after, _ in orders.TRANSITIONS}
    for live in (True, False):
        assert (orders.State.CANCELLING, orders.decided(live)) in known
