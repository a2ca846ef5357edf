"""Payments as messages: what callers are answered, what the warehouse is told, and what providers tell of them."""

from typing import Final

from isthmus.payments.v1 import events_pb2, provider_pb2
from isthmus.payments.v1 import payments_pb2 as pb

from mesh.errors import InvalidArgument
from private_core.payments.domain import Payment, State
from private_core.payments.statement import Act, Line
from private_core.translation import money_message

_STATES: Final = {
    State.PENDING: pb.PAYMENT_STATE_PENDING,
    State.AUTHORIZED: pb.PAYMENT_STATE_AUTHORIZED,
    State.CAPTURED: pb.PAYMENT_STATE_CAPTURED,
    State.REFUNDED: pb.PAYMENT_STATE_REFUNDED,
    State.DECLINED: pb.PAYMENT_STATE_DECLINED,
    State.VOIDED: pb.PAYMENT_STATE_VOIDED,
    State.EXPIRED: pb.PAYMENT_STATE_EXPIRED,
}


def payment_message(payment: Payment) -> pb.Payment:
    return pb.Payment(
        payment_id=payment.payment_id,
        order_id=payment.order_id,
        state=_STATES[payment.state],
        authorized=money_message(payment.authorized),
        captured=money_message(payment.captured),
        refunded=money_message(payment.refunded),
        source_time_us=payment.source_time_us,
        released=money_message(payment.released),
        expires_time_us=payment.expires_us,
    )


def payment_changed(payment: Payment) -> events_pb2.PaymentChanged:
    return events_pb2.PaymentChanged(payment_id=payment.payment_id, payment=payment_message(payment))


def line_of(one: provider_pb2.ProviderOperation) -> Line:
    """What a provider states or tells of one operation. Raises InvalidArgument where no provider does such a thing."""
    try:
        act = Act(one.kind)
    except ValueError:
        raise InvalidArgument("ACT_UNKNOWN", "a provider holds, takes, releases or returns") from None
    return Line(
        one.operation_id, act, one.reference, one.amount.minor, one.amount.currency, one.approved, one.provider_id
    )
