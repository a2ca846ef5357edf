"""The ProviderNotifications service: what a provider tells is held against the books, and ends what is open there."""

from collections.abc import Iterable
from typing import Any

from isthmus.payments.v1 import notifications_pb2 as pb
from isthmus.payments.v1 import notifications_pb2_grpc

from mesh.errors import FailedPrecondition, MeshError, PermissionDenied
from mesh.logs import logger
from private_core.payments import statement
from private_core.payments.domain import Progress, ProviderAnswer
from private_core.payments.messages import line_of
from private_core.payments.reconciliation import Reconciliation
from private_core.payments.reconciliation_store import ReconciliationStore
from private_core.payments.settlement import Settlement
from private_core.payments.statement import Line, Name
from private_core.payments.store import PaymentStore
from private_core.payments.wechat.notification import Notifications
from private_core.payments.wechat.signing import Signed, Untrusted


class NotificationService(notifications_pb2_grpc.ProviderNotificationsServicer):
    """Order and repetition are of no account: an operation ends once, and what ended stays as it is."""

    def __init__(
        self,
        store: PaymentStore,
        entries: ReconciliationStore,
        settlement: Settlement,
        reconciliation: Reconciliation,
        wechat: Notifications | None = None,
    ) -> None:
        self._store = store
        self._entries = entries
        self._settlement = settlement
        self._reconciliation = reconciliation
        self._wechat = wechat
        self._log = logger("notifications")

    async def Notify(self, request: pb.NotifyRequest, context: Any) -> pb.NotifyResponse:
        return pb.NotifyResponse(ended=await self._take(map(line_of, request.notifications)))

    async def ForwardWechat(self, request: pb.ForwardWechatRequest, context: Any) -> pb.ForwardWechatResponse:
        if self._wechat is None:
            raise FailedPrecondition(
                "PROVIDER_OTHER", "this mesh does not pay by WeChat Pay", remedy="see ISTHMUS_WECHAT"
            )
        signed = Signed(request.timestamp, request.nonce, request.serial, request.signature)
        try:
            line = await self._wechat.read(signed, request.body)
        except Untrusted as untrusted:
            raise PermissionDenied("NOTIFICATION_UNTRUSTED", f"this is not WeChat Pay's: {untrusted}") from untrusted
        return pb.ForwardWechatResponse(ended=await self._take([line] if line else []) > 0)

    async def _take(self, told: Iterable[Line]) -> int:
        """Hold what was told against the books; how many operations it ended."""
        lines = {line.operation_id: line for line in told}
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
        return ended

    async def _end(self, line: Line) -> bool:
        operation = await self._store.operation(line.operation_id)
        if operation is None or operation.progress is not Progress.OPEN:
            # The call itself has ended it since the books were looked at.
            return False
        try:
            await self._settlement.settle(operation, ProviderAnswer(line.approved, line.provider_id))
        except MeshError as error:
            # The call itself, or the next round of the settlement, will.
            self._log.warning("an operation stays open", operation=line.operation_id, reason=error.reason)
            return False
        return True
