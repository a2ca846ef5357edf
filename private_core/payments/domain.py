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
    # Something is held and not yet taken or released; a part may have been taken.
    AUTHORIZED = "authorized"
    # Nothing is held any more, and something was taken.
    CAPTURED = "captured"
    # All that was taken was given back, and nothing is held.
    REFUNDED = "refunded"
    DECLINED = "declined"
    # Released, or run out, before anything was taken.
    VOIDED = "voided"
    EXPIRED = "expired"


# The state machine: before, after, and what leads there. The README's table is made of it.
TRANSITIONS: tuple[tuple[State, State, str], ...] = (
    (State.PENDING, State.AUTHORIZED, "the provider approved the hold"),
    (State.PENDING, State.DECLINED, "the provider declined the hold, or the order cannot be paid"),
    (State.AUTHORIZED, State.AUTHORIZED, "a part was taken, or a part of what was taken was refunded"),
    (State.AUTHORIZED, State.CAPTURED, "the rest of what was held was taken, released or has run out"),
    (State.AUTHORIZED, State.REFUNDED, "the rest of what was held was released, and all that was taken is refunded"),
    (State.AUTHORIZED, State.VOIDED, "all that was held was released"),
    (State.AUTHORIZED, State.EXPIRED, "all that was held has run out"),
    (State.CAPTURED, State.CAPTURED, "a part was refunded"),
    (State.CAPTURED, State.REFUNDED, "refunds add up to what was taken"),
)


class Kind(StrEnum):
    HOLD = "hold"
    CAPTURE = "capture"
    # What is left of a hold is released: because somebody asked for it, or because its time is over.
    VOID = "void"
    EXPIRE = "expire"
    REFUND = "refund"


class Progress(StrEnum):
    """How far an operation at the provider is. Open: written down here before the provider was asked."""

    OPEN = "open"
    DONE = "done"
    DECLINED = "declined"


@dataclass(frozen=True, slots=True)
class Payment:
    """member_id: whose order it is; empty until the order was asked for. All amounts are in one currency.

    released: of what was authorised, what will never be captured. expires_us: when what is left of the hold runs out.
    """

    payment_id: str
    order_id: str
    member_id: str
    state: State
    authorized: Money
    captured: Money
    released: Money
    refunded: Money
    source_time_us: int
    expires_us: int

    @property
    def held(self) -> Money:
        """What is left of the hold."""
        return Money(self.authorized.minor - self.captured.minor - self.released.minor, self.authorized.currency)


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
    """approved: None while the provider waits for the payer. provider_id: the provider's own id of the operation.

    pay_url: where the payer pays, if the provider waits for that.
    """

    approved: bool | None
    provider_id: str
    pay_url: str = ""

    @property
    def progress(self) -> Progress:
        if self.approved is None:
            return Progress.OPEN
        return Progress.DONE if self.approved else Progress.DECLINED


class Provider(Protocol):
    """Port to a payment provider. One key with the same arguments is one operation there, however often it is asked.

    Raises mesh.errors.Unavailable PROVIDER_SILENT when the outcome is not known.
    """

    async def hold(self, key: str, reference: str, amount: Money) -> ProviderAnswer: ...
    async def take(self, key: str, reference: str, amount: Money) -> ProviderAnswer: ...
    async def release(self, key: str, reference: str, amount: Money) -> ProviderAnswer: ...
    async def give_back(self, key: str, reference: str, amount: Money) -> ProviderAnswer: ...


async def ask(provider: Provider, operation: Operation) -> ProviderAnswer:
    """Have the provider do it, or say what became of it when it was asked before."""
    verb = {
        Kind.HOLD: provider.hold,
        Kind.CAPTURE: provider.take,
        Kind.VOID: provider.release,
        Kind.EXPIRE: provider.release,
        Kind.REFUND: provider.give_back,
    }[operation.kind]
    return await verb(operation.operation_id, operation.payment.payment_id, operation.amount)


class Orders(Protocol):
    """Port to the orders room."""

    async def read(self, order_id: str) -> Order:
        """As the caller of this call may. Raises mesh.errors.NotFound."""

    async def inspect(self, order_id: str) -> Order:
        """Without a caller. Raises mesh.errors.NotFound; Unavailable also while the order is being cancelled."""


class Account(StrEnum):
    """The chart of accounts. Postings are positive on the debit side and negative on the credit side.

    The two `holds` accounts mirror each other: what the provider holds for us, and for whom. They return to zero when
    everything that was held is captured or released. No payment may take an account to its wrong side: the database
    holds each payment's part of each account to that account's side.
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
    Kind.VOID: ((Account.HOLDS_AT_PROVIDER, -1), (Account.HOLDS_OF_MEMBERS, 1)),
    Kind.EXPIRE: ((Account.HOLDS_AT_PROVIDER, -1), (Account.HOLDS_OF_MEMBERS, 1)),
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


def pending(payment_id: str, order_id: str, amount: Money, source_time_us: int, expires_us: int) -> Payment:
    """A payment of which the provider has not been asked yet. Refuses what can be no order's id."""
    if order_id.isdecimal():
        # A phone number, say. The payment is kept, and told to others, before orders is asked about it.
        raise Absent("ORDER_UNKNOWN", "there is no such order", "check the order id")
    nothing = Money(0, amount.currency)
    return Payment(
        payment_id, order_id, "", State.PENDING, amount, nothing, nothing, nothing, source_time_us, expires_us
    )


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
            return _settled(replace(payment, captured=_sum(payment.captured, amount)), State.CAPTURED)
        case Kind.VOID, Progress.DONE:
            return _settled(replace(payment, released=_sum(payment.released, amount)), State.VOIDED)
        case Kind.EXPIRE, Progress.DONE:
            return _settled(replace(payment, released=_sum(payment.released, amount)), State.EXPIRED)
        case Kind.REFUND, Progress.DONE:
            return _settled(replace(payment, refunded=_sum(payment.refunded, amount)), payment.state)
        case _:
            return payment


def _settled(payment: Payment, untaken: State) -> Payment:
    """With the state that its amounts make; `untaken` where nothing is held and nothing was taken."""
    if payment.held.minor:
        return payment
    if payment.captured.minor == 0:
        return replace(payment, state=untaken)
    whole = payment.refunded == payment.captured
    return replace(payment, state=State.REFUNDED if whole else State.CAPTURED)


def _sum(one: Money, other: Money) -> Money:
    return Money(one.minor + other.minor, one.currency)


def busy() -> Busy:
    return Busy("PAYMENT_BUSY", "another call is at the same payment", "repeat the call with the same key")


def readable(payment: Payment | None, by: Caller) -> Payment:
    """The payment, if there is one and the caller may know of it. Otherwise the same refusal, whichever it was."""
    if payment is None or not by.may_act_for(payment.member_id):
        raise Absent("PAYMENT_UNKNOWN", "there is no such payment", "check the payment id")
    return payment


def has_payment(live: Payment | None) -> Refusal:
    """Why the order of a live payment gets no second one. None: it was live a moment ago."""
    if live is None or live.state is State.PENDING:
        return busy()
    return Duplicate("ORDER_HAS_PAYMENT", "the order has a live payment", "use that one, or refund it whole first")


def capturable(amount: Money) -> None:
    """Refuse an amount that no hold could give."""
    if amount.minor == 0:
        raise Malformed("CAPTURE_EMPTY", "a capture in part takes something", "leave the amount out to take all")


def not_capturable(payment: Payment, amount: Money | None = None) -> Refusal:
    """Why this amount of the hold, or all that is left of it, can be neither taken nor released now."""
    if payment.state is not State.AUTHORIZED:
        return WrongState(
            "PAYMENT_NOT_AUTHORIZED", f"the payment is {payment.state}, not authorized", "read the payment"
        )
    if amount is not None and amount.currency != payment.authorized.currency:
        return WrongState("CURRENCY_MISMATCH", "the payment is in another currency", "use the payment's currency")
    if amount is not None and amount.minor > payment.held.minor:
        return WrongState("CAPTURE_OVER_HOLD", "the amount is more than what is left of the hold", "read the payment")
    # It can. Another call is at the hold, or was a moment ago.
    return busy()


def refundable(amount: Money) -> None:
    """Refuse an amount that no payment could refund."""
    if amount.minor == 0:
        raise Malformed("REFUND_EMPTY", "a refund gives back something", "send an amount above zero")


def not_refundable(payment: Payment, amount: Money) -> WrongState:
    """Why this amount of this payment cannot be refunded now."""
    if payment.captured.minor == 0:
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
