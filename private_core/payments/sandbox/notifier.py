"""Tells the merchant what was done, as providers do: at least once, in whatever order, and not for ever."""

from collections import deque
from typing import Final

import grpc
from isthmus.payments.v1 import notifications_pb2 as pb
from isthmus.payments.v1 import notifications_pb2_grpc

from mesh.errors import MeshError
from mesh.logs import logger
from private_core.payments.sandbox.domain import Behaviour, behaviour
from private_core.payments.sandbox.journal import Entry
from private_core.payments.sandbox.messages import operation_message

INTERVAL_S: Final = 0.5
BATCH: Final = 100
PENDING_MAX: Final = 10_000
_ATTEMPTS_MAX: Final = 20
_BATCHES_MAX: Final = 20


class Notifier:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: notifications_pb2_grpc.ProviderNotificationsAsyncStub = (
            notifications_pb2_grpc.ProviderNotificationsStub(channel)
        )
        # When the merchant stays away, the oldest are given up: it has the statement.
        self._pending: deque[tuple[Entry, int]] = deque(maxlen=PENDING_MAX)
        self._log = logger("notifier")

    def add(self, entry: Entry) -> None:
        if behaviour(entry.amount) is not Behaviour.UNTOLD:
            self._pending.append((entry, 0))

    async def round(self) -> int:
        """Tell what is waiting; how many operations."""
        told = 0
        for _ in range(_BATCHES_MAX):
            batch = [self._pending.popleft() for _ in range(min(BATCH, len(self._pending)))]
            if not batch:
                break
            events = [operation_message(entry) for entry, _ in batch]
            try:
                # The newest first, and everything twice.
                await self._stub.Notify(pb.NotifyRequest(notifications=[*reversed(events), *events]))
            except MeshError as error:
                self._log.warning("the merchant did not hear", reason=error.reason, waiting=len(batch))
                again = [(entry, attempts + 1) for entry, attempts in batch if attempts + 1 < _ATTEMPTS_MAX]
                self._pending.extendleft(reversed(again))
                break
            told += len(batch)
        return told
