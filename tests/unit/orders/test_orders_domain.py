"""The rules of orders."""

from collections.abc import Sequence

import pytest

from private_core.callers import Caller
from private_core.money import Money
from private_core.orders import domain
from private_core.orders.domain import Line, Order, State
from private_core.refusals import Absent, Forbidden, Malformed

NOW_US = 1_790_000_000_000_000
STOREFRONT = Caller("storefront", is_member=False)
MEMBER = Caller("member-1", is_member=True)
LINES = (Line("cd-1", 2, Money(2000, "USD")), Line("cd-2", 1, Money(933, "USD")))


def place(
    member: str = "member-1", lines: Sequence[Line] = LINES, by: Caller = STOREFRONT, source_time_us: int = 5
) -> Order:
    return domain.place("order-1", member, lines, source_time_us, NOW_US, by)


def test_an_order_is_placed_with_the_sum_of_its_lines() -> None:
    order = place()
    assert (order.state, order.total, order.source_time_us) == (State.PLACED, Money(2933, "USD"), 5)


def test_a_member_places_for_themself_and_a_client_for_members() -> None:
    assert place(by=MEMBER).member_id == "member-1"
    assert place(member="member-2").member_id == "member-2"
    with pytest.raises(Forbidden):
        place(member="member-2", by=MEMBER)


def test_an_order_without_lines_is_none() -> None:
    with pytest.raises(Malformed, match="ORDER_EMPTY"):
        place(lines=())


def test_lines_are_in_one_currency() -> None:
    with pytest.raises(Malformed, match="CURRENCIES_MIXED"):
        place(lines=(*LINES, Line("cd-3", 1, Money(1, "EUR"))))


def test_another_members_order_is_refused_as_if_there_were_none() -> None:
    refusals = []
    for order in (None, place(member="member-2")):
        with pytest.raises(Absent) as refused:
            domain.readable(order, MEMBER)
        refusals.append(str(refused.value))
    assert refusals[0] == refusals[1]
