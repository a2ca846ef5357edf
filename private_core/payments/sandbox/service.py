"""The SandboxProvider service."""

import asyncio
from datetime import date
from itertools import islice
from typing import Any, Final

from isthmus.payments.v1 import sandbox_pb2 as pb
from isthmus.payments.v1 import sandbox_pb2_grpc

from mesh.errors import InvalidArgument
from private_core.payments.sandbox.domain import Asked, Behaviour, Memory, behaviour, stated
from private_core.payments.sandbox.journal import Entry, Journal
from private_core.payments.sandbox.messages import operation_message
from private_core.payments.sandbox.notifier import Notifier
from private_core.translation import money_of, translated

PAGE: Final = 1000
_Request = pb.HoldRequest | pb.TakeRequest | pb.ReleaseRequest | pb.ReturnRequest


class SandboxService(sandbox_pb2_grpc.SandboxProviderServicer):
    """slow_s: how long a slow answer takes. silent_s: longer than anybody waits."""

    def __init__(
        self, memory: Memory, journal: Journal, notifier: Notifier, slow_s: float = 1.0, silent_s: float = 30.0
    ) -> None:
        self._memory = memory
        self._journal = journal
        self._notifier = notifier
        self._waits_s = {Behaviour.SLOW: slow_s, Behaviour.SILENT: silent_s}

    async def Hold(self, request: pb.HoldRequest, context: Any) -> pb.HoldResponse:
        one = await self._decide("hold", request)
        return pb.HoldResponse(approved=one.approved, provider_id=one.provider_id, decline_reason=one.decline_reason)

    async def Take(self, request: pb.TakeRequest, context: Any) -> pb.TakeResponse:
        one = await self._decide("take", request)
        return pb.TakeResponse(approved=one.approved, provider_id=one.provider_id, decline_reason=one.decline_reason)

    async def Release(self, request: pb.ReleaseRequest, context: Any) -> pb.ReleaseResponse:
        one = await self._decide("release", request)
        return pb.ReleaseResponse(approved=one.approved, provider_id=one.provider_id, decline_reason=one.decline_reason)

    async def Return(self, request: pb.ReturnRequest, context: Any) -> pb.ReturnResponse:
        one = await self._decide("return", request)
        return pb.ReturnResponse(approved=one.approved, provider_id=one.provider_id, decline_reason=one.decline_reason)

    async def ListStatement(self, request: pb.ListStatementRequest, context: Any) -> pb.ListStatementResponse:
        try:
            day = date.fromisoformat(request.day)
        except ValueError:
            raise InvalidArgument("DAY_UNKNOWN", "there is no such day", remedy="send it as 2026-11-22") from None
        lines = (line for line in map(stated, self._journal.read(day)) if line is not None)
        return pb.ListStatementResponse(
            lines=map(operation_message, islice(lines, request.after, request.after + PAGE))
        )

    async def _decide(self, kind: str, request: _Request) -> Entry:
        with translated():
            entry, new = self._memory.decide(
                request.idempotency_key, Asked(kind, request.reference, money_of(request.amount))
            )
        if new:
            self._notifier.add(entry)
            disturbed = behaviour(entry.amount)
            if disturbed in self._waits_s:
                await asyncio.sleep(self._waits_s[disturbed])
        return entry
