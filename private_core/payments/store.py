"""Payments, operations and postings in PostgreSQL. No transaction is open while the provider is asked."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh.database.engine import execute, transact
from private_core.callers import Caller
from private_core.money import Money
from private_core.payments import domain, statements
from private_core.payments.domain import Balance, Kind, Month, Operation, Payment, Progress, State
from private_core.payments.messages import payment_changed
from private_core.refusals import Busy, Refusal
from private_core.storage import outbox
from private_core.storage.idempotency import Answer, Idempotency, Intent, key_reused
from private_core.times import to_datetime, to_us
from private_core.translation import error_of
from security.audit import attached

# A refund that ends while others of the same payment end too is written again from the newest amounts.
_FINISHES_MAX: Final = 10

# What to answer when an operation ended so, leaving the payment so.
Say = Callable[[Progress, Payment], Answer]


class PaymentStore:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._idempotency = Idempotency("payments")

    async def begin_hold(self, intent: Intent, payment: Payment, say: Say) -> Operation | Answer:
        """Write down that the payment's amount will be held. Returns what to ask the provider, or the stored answer."""

        async def why_not(tx: AsyncConnection) -> Refusal:
            row = (await tx.execute(statements.LIVE_PAYMENT, {"order_id": payment.order_id})).first()
            return domain.has_payment(_payment(row) if row else None)

        parameters = {
            "payment_id": payment.payment_id,
            "order_id": payment.order_id,
            "currency": payment.authorized.currency,
            "amount": payment.authorized.minor,
            "source_time": to_datetime(payment.source_time_us),
            "expires_time": to_datetime(payment.expires_us),
        }
        return await self._begin(Kind.HOLD, intent, parameters, why_not, say)

    async def begin_at_hold(
        self, kind: Kind, intent: Intent, payment_id: str, amount: Money | None, by: Caller, say: Say
    ) -> Operation | Answer:
        """Write down that `amount` of what is held, None for all that is left, will be taken or released."""

        async def why_not(tx: AsyncConnection) -> Refusal:
            return domain.not_capturable(domain.readable(await self._payment(tx, payment_id), by), amount)

        parameters = {
            "payment_id": payment_id,
            "owner": _owner(by),
            "amount": amount.minor if amount else None,
            "currency": amount.currency if amount else "",
        }
        return await self._begin(kind, intent, parameters, why_not, say)

    async def begin_refund(
        self, intent: Intent, payment_id: str, amount: Money, by: Caller, say: Say
    ) -> Operation | Answer:
        """Set `amount` of what was captured apart, to be given back."""

        async def why_not(tx: AsyncConnection) -> Refusal:
            return domain.not_refundable(domain.readable(await self._payment(tx, payment_id), by), amount)

        parameters = {
            "payment_id": payment_id,
            "owner": _owner(by),
            "amount": amount.minor,
            "currency": amount.currency,
        }
        return await self._begin(Kind.REFUND, intent, parameters, why_not, say)

    async def begin_expiries(self, limit: int) -> list[Operation]:
        """Write down that what is left of holds whose time is over will be released."""
        return [_operation(row) for row in await execute(self._engine, statements.BEGIN_EXPIRY, {"limit": limit})]

    async def finish(
        self,
        intent: Intent,
        operation: Operation,
        progress: Progress,
        say: Say,
        *,
        provider_id: str = "",
        member_id: str = "",
    ) -> Answer:
        """End the operation: payment, postings and answer in one transaction. Returns the first answer to the intent.

        An operation that another call ended in the meantime is not ended twice.
        """
        for _ in range(_FINISHES_MAX):
            payment = domain.after(operation, progress)
            answer = say(progress, payment)
            legs = domain.POSTINGS[operation.kind]
            parameters = {
                "intent": intent.id,
                "operation_id": operation.operation_id,
                "payment_id": payment.payment_id,
                "order_id": payment.order_id,
                "state_before": operation.payment.state.value,
                "captured_before": operation.payment.captured.minor,
                "released_before": operation.payment.released.minor,
                "refunded_before": operation.payment.refunded.minor,
                "progress": progress.value,
                "provider_id": provider_id,
                "kind": operation.kind.value,
                "state": payment.state.value,
                "captured": payment.captured.minor,
                "released": payment.released.minor,
                "refunded": payment.refunded.minor,
                "no_longer_refunding": operation.amount.minor if operation.kind is Kind.REFUND else 0,
                "member_id": member_id or payment.member_id,
                "currency": operation.amount.currency,
                "accounts": [account.value for account, _ in legs],
                "amounts": [sign * operation.amount.minor for _, sign in legs],
            }
            told = outbox.parameters(payment_changed(payment))
            if await execute(self._engine, statements.FINISH, parameters | told | answer.parameters | answer.audited):
                attached.committed()
                return answer
            ended = await self._look_again(intent, operation, say)
            if isinstance(ended, Answer):
                return ended
            operation = ended
        raise error_of(domain.busy())

    async def abandoned(self, age_s: float, limit: int) -> list[Operation]:
        """Open operations older than `age_s`; of more than `limit`, others each time."""
        age = timedelta(seconds=age_s)
        rows = await execute(self._engine, statements.ABANDONED, {"age": age, "limit": limit})
        return [_operation(row) for row in rows]

    async def operation(self, operation_id: str) -> Operation | None:
        rows = await execute(self._engine, statements.OPERATION, {"operation_id": operation_id})
        return _operation(rows[0]) if rows else None

    async def read(self, payment_id: str) -> Payment | None:
        rows = await execute(self._engine, statements.PAYMENT, {"payment_id": payment_id})
        return _payment(rows[0]) if rows else None

    async def of_order(self, order_id: str) -> list[Payment]:
        """The newest 100 payments of an order, newest first."""
        return [
            _payment(row) for row in await execute(self._engine, statements.PAYMENTS_OF_ORDER, {"order_id": order_id})
        ]

    async def balances(self) -> list[Balance]:
        rows = await execute(self._engine, statements.BALANCES)
        return [Balance(row.account, row.currency, int(row.balance), row.postings) for row in rows]

    async def captures(self) -> list[Month]:
        rows = await execute(self._engine, statements.CAPTURES)
        return [Month(row.month, row.captures, Money(int(row.amount), row.currency)) for row in rows]

    async def _begin(
        self,
        kind: Kind,
        intent: Intent,
        parameters: dict[str, Any],
        why_not: Callable[[AsyncConnection], Awaitable[Refusal]],
        say: Say,
    ) -> Operation | Answer:
        parameters = parameters | intent.parameters | {"operation_id": intent.name, "kind": kind.value}
        rows = await execute(self._engine, statements.BEGIN[kind], parameters)
        if rows:
            return _operation(rows[0])

        async def resume(tx: AsyncConnection) -> Operation | Answer:
            earlier = await self._idempotency.earlier(tx, intent)
            if earlier is not None:
                return earlier
            own = (await tx.execute(statements.OPERATION, {"operation_id": intent.name})).first()
            if own is not None:
                if own.body is not None and bytes(own.body) != intent.body:
                    raise key_reused()
                return await self._resumed(tx, intent, own, say)
            row = (await tx.execute(statements.BEGIN_AGAIN[kind], parameters)).first()
            if row is not None:
                return _operation(row)
            try:
                refusal = await why_not(tx)
            except Refusal as unreadable:
                refusal = unreadable
            if isinstance(refusal, Busy):
                raise error_of(refusal)
            answer = Answer.of(error_of(refusal))
            await self._idempotency.settle(tx, intent, answer)
            return answer

        return await transact(self._engine, resume)

    async def _resumed(self, tx: AsyncConnection, intent: Intent, row: Any, say: Say) -> Operation | Answer:
        """The operation that this key began: to go on with, or how it ended."""
        operation = _operation(row)
        if operation.progress is Progress.OPEN:
            return operation
        answer = say(operation.progress, operation.payment)
        await self._idempotency.settle(tx, intent, answer)
        return answer

    async def _look_again(self, intent: Intent, operation: Operation, say: Say) -> Operation | Answer:
        """What became of an operation that could not be ended: the answer, or the operation as it is if still open."""

        async def look(tx: AsyncConnection) -> Operation | Answer:
            earlier = await self._idempotency.earlier(tx, intent)
            if earlier is not None:
                return earlier
            row = (await tx.execute(statements.OPERATION, {"operation_id": operation.operation_id})).one()
            return await self._resumed(tx, intent, row, say)

        return await transact(self._engine, look)

    async def _payment(self, tx: AsyncConnection, payment_id: str) -> Payment | None:
        row = (await tx.execute(statements.PAYMENT, {"payment_id": payment_id})).first()
        return _payment(row) if row else None


def _owner(by: Caller) -> str:
    return by.subject if by.is_member else ""


def _operation(row: Any) -> Operation:
    return Operation(
        operation_id=row.operation_id,
        kind=Kind(row.kind),
        progress=Progress(row.progress),
        amount=Money(row.amount, row.currency),
        payment=_payment(row),
    )


def _payment(row: Any) -> Payment:
    return Payment(
        payment_id=row.payment_id,
        order_id=row.order_id,
        member_id=row.member_id,
        state=State(row.state),
        authorized=Money(row.authorized, row.currency),
        captured=Money(row.captured, row.currency),
        released=Money(row.released, row.currency),
        refunded=Money(row.refunded, row.currency),
        source_time_us=to_us(row.source_time),
        expires_us=to_us(row.expires_time),
    )
