"""Finishes what calls have left open, because their process died or the provider was silent and nobody called again;
and begins and finishes the release of holds whose time is over.

The provider is asked under the operation's own key, which makes asking again harmless; so is doing this in every
replica at once, and beside the call itself.
"""

from typing import Final

from mesh import telemetry
from mesh.errors import MeshError, NotFound
from mesh.logs import logger
from private_core.payments import domain
from private_core.payments.domain import Kind, Operation, Payment, Progress, ProviderAnswer
from private_core.payments.store import PaymentStore
from private_core.refusals import Refusal
from private_core.storage.idempotency import Answer, Intent
from private_core.translation import error_of

# Longer than the longest deadline of a call, so that whoever began an operation is gone.
ABANDONED_S: Final = 10.0
_ROUND_MAX: Final = 500
# No call is answered here: the repetition of the call that began it finds the operation done, and answers then.
_NOBODY: Final = Intent(b"", b"")


class Settlement:
    def __init__(
        self,
        store: PaymentStore,
        orders: domain.Orders,
        provider: domain.Provider,
        abandoned_s: float = ABANDONED_S,
    ) -> None:
        self._store = store
        self._orders = orders
        self._provider = provider
        self._abandoned_s = abandoned_s
        self._log = logger("settlement")
        self._abandoned = telemetry.meter().create_gauge("payments.abandoned")
        self._settled = telemetry.meter().create_counter("payments.settled")

    async def round(self) -> int:
        """Finish what was abandoned, release holds whose time is over; how many operations ended.

        What the provider or orders is silent about stays for the next round.
        """
        found = await self._store.abandoned(self._abandoned_s, _ROUND_MAX)
        found += await self._store.begin_expiries(_ROUND_MAX)
        finished = 0
        for operation in found:
            try:
                progress = await self.settle(operation)
            except MeshError as error:
                self._log.warning("an operation stays open", operation=operation.operation_id, reason=error.reason)
                continue
            if progress is Progress.OPEN:
                # The provider waits for the payer.
                continue
            finished += 1
            self._settled.add(1, {"kind": operation.kind.value, "progress": progress.value})
            self._log.info("settled", operation=operation.operation_id, kind=operation.kind, progress=progress)
        self._abandoned.set(len(found) - finished)
        return finished

    async def settle(self, operation: Operation, answer: ProviderAnswer | None = None) -> Progress:
        """End an open operation by the provider's answer, or by asking for it. Raises MeshError: it stays open."""
        member_id = operation.payment.member_id
        if operation.kind is Kind.HOLD:
            try:
                order = await self._orders.inspect(operation.payment.order_id)
                # What the provider did is so, whatever has become of the order.
                if answer is None:
                    domain.payable(order, operation.amount)
            except (NotFound, Refusal):
                if answer is None:
                    return await self._finish(operation, Progress.DECLINED)
            else:
                member_id = order.member_id
        answer = answer or await domain.ask(self._provider, operation)
        if answer.progress is Progress.OPEN:
            return Progress.OPEN
        return await self._finish(operation, answer.progress, answer.provider_id, member_id)

    async def _finish(
        self, operation: Operation, progress: Progress, provider_id: str = "", member_id: str = ""
    ) -> Progress:
        await self._store.finish(_NOBODY, operation, progress, _nothing, provider_id=provider_id, member_id=member_id)
        return progress


def _nothing(progress: Progress, payment: Payment) -> Answer:
    return Answer.of(error_of(domain.busy()))
