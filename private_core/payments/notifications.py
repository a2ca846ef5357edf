"""The ProviderNotifications service: what a provider tells is held against the books, and ends what is open there."""

from typing import Any

from isthmus.payments.v1 import notifications_pb2 as pb
from isthmus.payments.v1 import notifications_pb2_grpc

from mesh.errors import InvalidArgument, MeshError
from mesh.logs import logger
from private_core.payments import statement
from private_core.payments.domain import ProviderAnswer
from private_core.payments.reconciliation import Reconciliation
from private_core.payments.reconciliation_store import ReconciliationStore
from private_core.payments.settlement import Settlement
from private_core.payments.statement import Act, Line, Name
from private_core.payments.store import PaymentStore


class NotificationService(notifications_pb2_grpc.ProviderNotificationsServicer):
    """Order and repetition are of no account: an operation ends once, and what ended stays as it is."""

    def __init__(
        self,
        store: PaymentStore,
        entries: ReconciliationStore,
        settlement: Settlement,
        reconciliation: Reconciliation,
    ) -> None:
        self._store = store
        self._entries = entries
        self._settlement = settlement
        self._reconciliation = reconciliation
        self._log = logger("notifications")

    async def Notify(self, request: pb.NotifyRequest, context: Any) -> pb.NotifyResponse:
        lines = {line.operation_id: line for line in map(_line, request.notifications)}
        entries = await self._entries.entries(lines)
        differences = []
        ended = 0
        for line in lines.values():
            found = list(statement.compare(line, entries.get(line.operation_id)))
            if [one.name for one in found] == [Name.OPEN_HERE]:
                ended += await self._end(line)
            else:
                # Open and different besides is a difference, and is not ended by what may be wrong.
                differences += found
        await self._reconciliation.found(differences)
        return pb.NotifyResponse(ended=ended)

    async def _end(self, line: Line) -> bool:
        operation = await self._store.operation(line.operation_id)
        if operation is None:
            return False
        try:
            await self._settlement.settle(operation, ProviderAnswer(line.approved, line.provider_id))
        except MeshError as error:
            # The call itself, or the next round of the settlement, will.
            self._log.warning("an operation stays open", operation=line.operation_id, reason=error.reason)
            return False
        return True


def _line(one: pb.ProviderNotification) -> Line:
    try:
        act = Act(one.kind)
    except ValueError:
        raise InvalidArgument("ACT_UNKNOWN", "a provider holds, takes, releases or returns") from None
    return Line(
        one.operation_id, act, one.reference, one.amount.minor, one.amount.currency, one.approved, one.provider_id
    )
