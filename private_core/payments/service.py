"""The Payments and Ledger services: convert, ask the domain, the store and the provider, convert back."""

from collections import defaultdict
from collections.abc import Callable
from datetime import date
from typing import Any, Final

from google.protobuf.message import Message
from isthmus.money.v1 import money_pb2
from isthmus.payments.v1 import payments_pb2 as pb
from isthmus.payments.v1 import payments_pb2_grpc

from mesh.clock import Clock
from mesh.errors import Internal, InvalidArgument, MeshError, NotFound, Unavailable
from private_core.identifiers import new_id
from private_core.money import MINOR_MAX
from private_core.payments import domain
from private_core.payments.domain import Operation, Payment, Progress
from private_core.payments.messages import payment_message
from private_core.payments.reconciliation import Reconciliation
from private_core.payments.settings import HOLD_S
from private_core.payments.store import PaymentStore, Say
from private_core.refusals import Refusal
from private_core.storage.idempotency import Answer, Intent, intent_of
from private_core.times import source_time
from private_core.translation import current_caller, error_of, money_message, money_of, translated

_US_PER_S: Final = 1_000_000


class PaymentsService(payments_pb2_grpc.PaymentsServicer):
    """Each operation is written down, then asked of the provider, then finished. A call that dies between two steps is
    taken up by its repetition, which asks the provider under the same key."""

    def __init__(
        self,
        store: PaymentStore,
        orders: domain.Orders,
        provider: domain.Provider,
        clock: Clock,
        hold_s: float = HOLD_S,
    ) -> None:
        self._store = store
        self._orders = orders
        self._provider = provider
        self._clock = clock
        self._hold_us = int(hold_s * _US_PER_S)

    async def AuthorizePayment(self, request: pb.AuthorizePaymentRequest, context: Any) -> pb.AuthorizePaymentResponse:
        def say(_: Progress, payment: Payment) -> Answer:
            # A hold that the provider declines is a payment too: it says so by its state.
            return Answer.of(pb.AuthorizePaymentResponse(payment=payment_message(payment)))

        intent, payment = intent_of(request, request.idempotency_key), self._new_payment(request)
        if current_caller().is_member:
            # What is written is finished without its caller, if need be, and says by its refusals what is there: so
            # nothing is written, and nothing looked up, about an order that is another's.
            await self._orders.read(payment.order_id)
        begun = await self._store.begin_hold(intent, payment, say)
        if isinstance(begun, Answer):
            return pb.AuthorizePaymentResponse.FromString(begun.give())
        order = await self._payable(begun)
        if isinstance(order, MeshError):
            refusal = Answer.of(order)
            closed = await self._store.finish(intent, begun, Progress.DECLINED, lambda *_: refusal)
            return pb.AuthorizePaymentResponse.FromString(closed.give())
        answer = await self._carry_out(intent, begun, say, order.member_id)
        return pb.AuthorizePaymentResponse.FromString(answer.give())

    async def CapturePayment(self, request: pb.CapturePaymentRequest, context: Any) -> pb.CapturePaymentResponse:
        amount = None
        if request.HasField("amount"):
            with translated():
                amount = money_of(request.amount)
                domain.capturable(amount)
        say = _unless_declined(domain.Kind.CAPTURE, pb.CapturePaymentResponse)
        intent = intent_of(request, request.idempotency_key)
        begun = await self._store.begin_at_hold(
            domain.Kind.CAPTURE, intent, request.payment_id, amount, current_caller(), say
        )
        return pb.CapturePaymentResponse.FromString((await self._carry_out(intent, begun, say)).give())

    async def VoidPayment(self, request: pb.VoidPaymentRequest, context: Any) -> pb.VoidPaymentResponse:
        say = _unless_declined(domain.Kind.VOID, pb.VoidPaymentResponse)
        intent = intent_of(request, request.idempotency_key)
        begun = await self._store.begin_at_hold(
            domain.Kind.VOID, intent, request.payment_id, None, current_caller(), say
        )
        return pb.VoidPaymentResponse.FromString((await self._carry_out(intent, begun, say)).give())

    async def RefundPayment(self, request: pb.RefundPaymentRequest, context: Any) -> pb.RefundPaymentResponse:
        with translated():
            amount = money_of(request.amount)
            domain.refundable(amount)
        say = _unless_declined(domain.Kind.REFUND, pb.RefundPaymentResponse)
        intent = intent_of(request, request.idempotency_key)
        begun = await self._store.begin_refund(intent, request.payment_id, amount, current_caller(), say)
        return pb.RefundPaymentResponse.FromString((await self._carry_out(intent, begun, say)).give())

    async def GetPayment(self, request: pb.GetPaymentRequest, context: Any) -> pb.GetPaymentResponse:
        payment = await self._store.read(request.payment_id)
        with translated():
            return pb.GetPaymentResponse(payment=payment_message(domain.readable(payment, current_caller())))

    async def ListPayments(self, request: pb.ListPaymentsRequest, context: Any) -> pb.ListPaymentsResponse:
        # Only orders may ask, and has seen to it that the caller may know of this order.
        payments = await self._store.of_order(request.order_id)
        return pb.ListPaymentsResponse(payments=[payment_message(payment) for payment in payments])

    def _new_payment(self, request: pb.AuthorizePaymentRequest) -> Payment:
        now_us = self._clock.now_us()
        with translated():
            amount = money_of(request.amount)
            at_us = source_time(request.source_time_us, now_us)
            return domain.pending(new_id(now_us), request.order_id, amount, at_us, now_us + self._hold_us)

    async def _payable(self, hold: Operation) -> domain.Order | MeshError:
        """The order, if this hold may go on; else why not. Outages are raised: they decide nothing."""
        try:
            order = await self._orders.read(hold.payment.order_id)
            domain.payable(order, hold.amount)
        except NotFound as unknown:
            return unknown
        except Refusal as refusal:
            return error_of(refusal)
        return order

    async def _carry_out(self, intent: Intent, begun: Operation | Answer, say: Say, member_id: str = "") -> Answer:
        if isinstance(begun, Answer):
            return begun
        answer = await domain.ask(self._provider, begun)
        if answer.progress is Progress.OPEN:
            # No answer to keep: the same call may have another one in a moment.
            return _undecided(begun, answer)
        return await self._store.finish(
            intent, begun, answer.progress, say, provider_id=answer.provider_id, member_id=member_id
        )


class LedgerService(payments_pb2_grpc.LedgerServicer):
    """The books, read only, and held against the provider's."""

    def __init__(self, store: PaymentStore, reconciliation: Reconciliation) -> None:
        self._store = store
        self._reconciliation = reconciliation

    async def GetTrialBalance(self, request: pb.GetTrialBalanceRequest, context: Any) -> pb.GetTrialBalanceResponse:
        balances = await self._store.balances()
        sums: dict[str, int] = defaultdict(int)
        for balance in balances:
            sums[balance.currency] += balance.balance_minor
        return pb.GetTrialBalanceResponse(
            balances=[
                pb.AccountBalance(account=one.account, balance=_signed(one.balance_minor, one.currency))
                for one in balances
            ],
            sums=[_signed(minor, currency) for currency, minor in sorted(sums.items())],
            postings=sum(balance.postings for balance in balances),
        )

    async def SummarizeCaptures(
        self, request: pb.SummarizeCapturesRequest, context: Any
    ) -> pb.SummarizeCapturesResponse:
        with translated():
            months = await self._store.captures()
        return pb.SummarizeCapturesResponse(
            months=[
                pb.CaptureMonth(month=month.month, captures=month.captures, amount=money_message(month.amount))
                for month in months
            ]
        )

    async def Reconcile(self, request: pb.ReconcileRequest, context: Any) -> pb.ReconcileResponse:
        try:
            day = date.fromisoformat(request.day)
        except ValueError:
            raise InvalidArgument("DAY_UNKNOWN", "there is no such day", remedy="send it as 2026-11-22") from None
        report = await self._reconciliation.run(day)
        return pb.ReconcileResponse(
            provider=report.provider,
            day=report.day.isoformat(),
            lines=report.lines,
            differences=[
                pb.Difference(operation_id=one.operation_id, name=one.name, here=one.here, there=one.there)
                for one in report.differences
            ],
        )


def _undecided(operation: Operation, answer: domain.ProviderAnswer) -> Answer:
    if operation.kind is not domain.Kind.HOLD:
        return Answer.of(
            Unavailable(
                "PROVIDER_UNDECIDED",
                "the payment provider is still at it",
                remedy="read the payment later, or repeat the call with the same idempotency key",
            )
        )
    payment = payment_message(operation.payment)
    return Answer.of(pb.AuthorizePaymentResponse(payment=payment, pay_url=answer.pay_url))


def _unless_declined(kind: domain.Kind, response: Callable[..., Message]) -> Say:
    def say(progress: Progress, payment: Payment) -> Answer:
        if progress is Progress.DECLINED:
            return Answer.of(error_of(domain.provider_declined(kind)))
        return Answer.of(response(payment=payment_message(payment)))

    return say


def _signed(minor: int, currency: str) -> money_pb2.Money:
    if abs(minor) > MINOR_MAX:
        raise Internal("BALANCE_OVERFLOW", "a balance does not fit into 64 bits")
    return money_pb2.Money(minor=minor, currency=currency)
