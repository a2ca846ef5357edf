"""The rules of payments: what may be held, captured and refunded, and which postings that makes."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from private_core.callers import Caller
from private_core.money import Money
from private_core.refusals import Absent, Busy, Duplicate, Malformed, Refusal, WrongState


class State(StrEnum):
    # The hold was asked for; the provider's answer is not known here yet.
    PENDING = "pending"
    AUTHORIZED = "authorized"
    CAPTURED = "captured"
    # Refunded whole.
    REFUNDED = "refunded"
    DECLINED = "declined"


# The state machine: before, after, and what leads there. The README's table is made of it.
TRANSITIONS: tuple[tuple[State, State, str], ...] = (
    (State.PENDING, State.AUTHORIZED, "the provider approved the hold"),
    (State.PENDING, State.DECLINED, "the provider declined the hold, or the order cannot be paid"),
    (State.AUTHORIZED, State.CAPTURED, "the provider took what was held"),
    (State.CAPTURED, State.CAPTURED, "a part was refunded"),
    (State.CAPTURED, State.REFUNDED, "refunds add up to the whole"),
)


class Kind(StrEnum):
    HOLD = "hold"
    CAPTURE = "capture"
    REFUND = "refund"


class Progress(StrEnum):
    """How far an operation at the provider is. Open: written down here before the provider was asked."""

    OPEN = "open"
    DONE = "done"
    DECLINED = "declined"


@dataclass(frozen=True, slots=True)
class Payment:
    """member_id: whose order it is; empty until the order was asked for. All amounts are in one currency."""

    payment_id: str
    order_id: str
    member_id: str
    state: State
    authorized: Money
    captured: Money
    refunded: Money
    source_time_us: int


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing asked of the provider. operation_id names the intent here and is the idempotency key there."""

    operation_id: str
    kind: Kind
    progress: Progress
    amount: Money
    payment: Payment


@dataclass(frozen=True, slots=True)
class Order:
    """What payments must know of an order."""

    order_id: str
    member_id: str
    total: Money
    placed: bool


@dataclass(frozen=True, slots=True)
class ProviderAnswer:
    """provider_id: the provider's own id of the operation."""

    approved: bool
    provider_id: str


class Provider(Protocol):
    """Port to a payment provider. One key with the same arguments is one operation there, however often it is asked.

    Raises mesh.errors.Unavailable PROVIDER_SILENT when the outcome is not known.
    """

    async def hold(self, key: str, reference: str, amount: Money) -> ProviderAnswer: ...
    async def take(self, key: str, reference: str, amount: Money) -> ProviderAnswer: ...
    async def give_back(self, key: str, reference: str, amount: Money) -> ProviderAnswer: ...


class Orders(Protocol):
    """Port to the orders room."""

    async def read(self, order_id: str) -> Order:
        """As the caller of this call may. Raises mesh.errors.NotFound."""

    async def inspect(self, order_id: str) -> Order:
        """Without a caller. Raises mesh.errors.NotFound; Unavailable also while the order is being cancelled."""


class Account(StrEnum):
    """The chart of accounts. Postings are positive on the debit side and negative on the credit side.

    The two `holds` accounts mirror each other: what the provider holds for us, and for whom. They return to zero when
    everything that was held is captured.
    """

    HOLDS_AT_PROVIDER = "holds:at-provider"
    HOLDS_OF_MEMBERS = "holds:of-members"
    RECEIVABLE = "provider:receivable"
    REVENUE = "merchant:revenue"
    REFUNDS = "merchant:refunds"


# What one unit of an operation's amount posts. Every row sums to zero; the database checks it again at commit.
POSTINGS: dict[Kind, tuple[tuple[Account, int], ...]] = {
    Kind.HOLD: ((Account.HOLDS_AT_PROVIDER, 1), (Account.HOLDS_OF_MEMBERS, -1)),
    Kind.CAPTURE: (
        (Account.HOLDS_AT_PROVIDER, -1),
        (Account.HOLDS_OF_MEMBERS, 1),
        (Account.RECEIVABLE, 1),
        (Account.REVENUE, -1),
    ),
    Kind.REFUND: ((Account.RECEIVABLE, -1), (Account.REFUNDS, 1)),
}


@dataclass(frozen=True, slots=True)
class Balance:
    """balance_minor: debits less credits."""

    account: str
    currency: str
    balance_minor: int
    postings: int


@dataclass(frozen=True, slots=True)
class Month:
    """Captures of one month and one currency. month: 1997-01, UTC, of the source time."""

    month: str
    captures: int
    amount: Money


def pending(payment_id: str, order_id: str, amount: Money, source_time_us: int) -> Payment:
    """A payment of which the provider has not been asked yet."""
    nothing = Money(0, amount.currency)
    return Payment(payment_id, order_id, "", State.PENDING, amount, nothing, nothing, source_time_us)


def payable(order: Order, amount: Money) -> None:
    """Refuse an order that cannot be paid with this amount."""
    if not order.placed:
        raise WrongState("ORDER_NOT_PLACED", "the order is cancelled or being cancelled", "place a new order")
    if amount != order.total:
        raise WrongState("AMOUNT_MISMATCH", "the amount is not the order's total", "authorise the order's total")


def after(operation: Operation, progress: Progress) -> Payment:
    """The payment, once the operation ended so."""
    payment, amount = operation.payment, operation.amount
    match operation.kind, progress:
        case _, Progress.OPEN:
            return payment
        case Kind.HOLD, Progress.DONE:
            return replace(payment, state=State.AUTHORIZED)
        case Kind.HOLD, Progress.DECLINED:
            return replace(payment, state=State.DECLINED)
        case Kind.CAPTURE, Progress.DONE:
            return replace(payment, state=State.CAPTURED, captured=amount)
        case Kind.REFUND, Progress.DONE:
            refunded = Money(payment.refunded.minor + amount.minor, amount.currency)
            whole = refunded.minor == payment.captured.minor
            return replace(payment, state=State.REFUNDED if whole else payment.state, refunded=refunded)
        case _:
            return payment


def busy() -> Busy:
    return Busy("PAYMENT_BUSY", "another call is at the same payment", "repeat the call with the same key")


def taken_over(operation: Operation, amount: Money, *, abandoned: bool) -> Operation:
    """An open operation of another call, to be finished instead of starting a second one: once that call is gone."""
    if operation.amount != amount:
        raise lost_to_another(operation.kind, operation.payment)
    if not abandoned:
        raise busy()
    return operation


def readable(payment: Payment | None, by: Caller) -> Payment:
    """The payment, if there is one and the caller may know of it. Otherwise the same refusal, whichever it was."""
    if payment is None or not by.may_act_for(payment.member_id):
        raise Absent("PAYMENT_UNKNOWN", "there is no such payment", "check the payment id")
    return payment


def not_capturable(payment: Payment) -> Refusal:
    """Why the payment cannot be captured now."""
    if payment.state is State.AUTHORIZED:
        # It can. Another capture was in the way and was declined a moment ago.
        return busy()
    return WrongState(
        "PAYMENT_NOT_AUTHORIZED",
        f"the payment is {payment.state}, not authorized",
        "read the payment",
    )


def lost_to_another(kind: Kind, payment: Payment) -> Refusal:
    """What is told to whoever wanted the same, was not first, and so changed nothing."""
    if kind is Kind.HOLD:
        return Duplicate("ORDER_HAS_PAYMENT", "the order has a live payment", "use that one, or refund it whole first")
    return not_capturable(payment)


def refundable(amount: Money) -> None:
    """Refuse an amount that no payment could refund."""
    if amount.minor == 0:
        raise Malformed("REFUND_EMPTY", "a refund gives back something", "send an amount above zero")


def not_refundable(payment: Payment, amount: Money) -> WrongState:
    """Why this amount of this payment cannot be refunded now."""
    if payment.state not in (State.CAPTURED, State.REFUNDED):
        return WrongState("PAYMENT_NOT_CAPTURED", f"the payment is {payment.state}, not captured", "capture it first")
    if amount.currency != payment.captured.currency:
        return WrongState("CURRENCY_MISMATCH", "the payment is in another currency", "refund in the payment's currency")
    return WrongState(
        "REFUND_OVER_CAPTURE",
        "the amount is more than what was captured and is not yet refunded or being refunded",
        "read the payment, then refund at most captured less refunded",
    )


def provider_declined(kind: Kind) -> WrongState:
    return WrongState("PROVIDER_DECLINED", f"the provider declined the {kind}", "ask the provider, then use a new key")
