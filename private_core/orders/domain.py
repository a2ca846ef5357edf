"""The rules of orders."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from private_core.callers import Caller
from private_core.money import Money, total
from private_core.refusals import Absent, Forbidden, Malformed, WrongState
from private_core.times import source_time


class State(StrEnum):
    PLACED = "placed"
    # Its payments are being looked at. None may begin now, so that none slips in between the look and the cancelling.
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    # As its payment is, in the transaction of the postings that make it so.
    AUTHORIZED = "authorized"
    CAPTURED = "captured"
    REFUNDED = "refunded"


# The state machine: before, after, and what leads there. The README's table is made of it.
TRANSITIONS: tuple[tuple[State, State, str], ...] = (
    (
        State.PLACED,
        State.CANCELLING,
        "`CancelOrder`, or nobody paid in time: from now on no payment may begin",
    ),
    (State.CANCELLING, State.CANCELLING, "`CancelOrder` again: the earlier one no longer decides"),
    (State.CANCELLING, State.CANCELLED, "no live payment was found: its goods are free again"),
    (State.CANCELLING, State.PLACED, "a live payment was found: `ORDER_HAS_PAYMENT`"),
    (State.PLACED, State.AUTHORIZED, "its payment is authorized"),
    (State.CANCELLING, State.AUTHORIZED, "its payment is authorized: it was on its way when the cancelling began"),
    (State.AUTHORIZED, State.PLACED, "its payment is voided, or has expired"),
    (State.AUTHORIZED, State.CAPTURED, "its payment is captured: its goods are sold"),
    (
        State.AUTHORIZED,
        State.REFUNDED,
        "its payment is refunded before all was captured: its goods are sold",
    ),
    (State.CAPTURED, State.REFUNDED, "its payment is refunded"),
)


@dataclass(frozen=True, slots=True)
class Line:
    """amount: of the whole line."""

    sku: str
    quantity: int
    amount: Money


@dataclass(frozen=True, slots=True)
class Order:
    order_id: str
    member_id: str
    state: State
    lines: tuple[Line, ...]
    total: Money
    source_time_us: int
    placed_time_us: int
    # The impression whose ad was followed to the shop; empty where there was none.
    click_id: str = ""


@dataclass(frozen=True, slots=True)
class Stock:
    """Pieces of one of the goods. on_hand: in the warehouse; reserved: of these, ordered and not yet sold."""

    sku: str
    on_hand: int
    reserved: int


@dataclass(frozen=True, slots=True)
class Month:
    """Orders of one month and one currency, cancelled ones left out. month: 1997-01, UTC."""

    month: str
    orders: int
    amount: Money


class Members(Protocol):
    """Port to the members room."""

    async def registered(self, member_id: str) -> bool: ...


class Payments(Protocol):
    """Port to the payments room."""

    async def any_live(self, order_id: str) -> bool:
        """Whether a payment of the order is pending, authorised or captured (and not refunded whole)."""


def place(
    order_id: str,
    member_id: str,
    lines: Sequence[Line],
    source_time_us: int,
    now_us: int,
    by: Caller,
    click_id: str = "",
) -> Order:
    """A new order of a member. source_time_us: 0 for now."""
    if not by.may_act_for(member_id):
        raise Forbidden("MEMBER_NOT_YOURSELF", "an order can only be placed for yourself", "use your own member id")
    if not lines:
        raise Malformed("ORDER_EMPTY", "an order needs at least one line", "add a line")
    amount = total(line.amount for line in lines)
    ordered_us = source_time(source_time_us, now_us)
    return Order(order_id, member_id, State.PLACED, tuple(lines), amount, ordered_us, now_us, click_id)


def decided(live: bool) -> State:
    """What an order that is being cancelled becomes, once its payments were looked at."""
    return State.PLACED if live else State.CANCELLED


def cancellable(order: Order) -> None:
    """Refuse an order that is paid, or was."""
    if order.state in (State.AUTHORIZED, State.CAPTURED):
        raise paid()
    if order.state is State.REFUNDED:
        raise WrongState("ORDER_REFUNDED", "the order was paid and refunded", "nothing is left to cancel")


def sold_out() -> WrongState:
    return WrongState(
        "OUT_OF_STOCK", "there are not that many pieces left of one of the goods", "read the stock, then order fewer"
    )


def unknown_member() -> WrongState:
    return WrongState("MEMBER_UNKNOWN", "no such member is registered", "register the member, then place a new order")


def existing(order: Order | None) -> Order:
    if order is None:
        raise Absent("ORDER_UNKNOWN", "there is no such order", "check the order id")
    return order


def readable(order: Order | None, by: Caller) -> Order:
    """The order, if there is one and the caller may know of it. Otherwise the same refusal, whichever it was."""
    return existing(order if order is not None and by.may_act_for(order.member_id) else None)


def paid() -> WrongState:
    return WrongState("ORDER_HAS_PAYMENT", "the order has a live payment", "void or refund the payment first")


def disturbed() -> WrongState:
    return WrongState("CANCEL_DISTURBED", "another call worked on the same order", "cancel again")


def unknown_stock() -> Absent:
    return Absent("STOCK_UNKNOWN", "the stock of this is not counted", "adjust it by what there is")


def stock_reserved() -> WrongState:
    return WrongState(
        "STOCK_RESERVED", "fewer pieces would be there than are reserved", "cancel orders first, or take fewer away"
    )
