"""The SandboxProvider service."""

from typing import Any

from isthmus.payments.v1 import sandbox_pb2 as pb
from isthmus.payments.v1 import sandbox_pb2_grpc

from private_core.payments.sandbox.domain import Asked, Decision, Memory
from private_core.translation import money_of, translated


class SandboxService(sandbox_pb2_grpc.SandboxProviderServicer):
    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    async def Hold(self, request: pb.HoldRequest, context: Any) -> pb.HoldResponse:
        one = self._decide("hold", request)
        return pb.HoldResponse(approved=one.approved, provider_id=one.provider_id, decline_reason=one.decline_reason)

    async def Take(self, request: pb.TakeRequest, context: Any) -> pb.TakeResponse:
        one = self._decide("take", request)
        return pb.TakeResponse(approved=one.approved, provider_id=one.provider_id, decline_reason=one.decline_reason)

    async def Return(self, request: pb.ReturnRequest, context: Any) -> pb.ReturnResponse:
        one = self._decide("return", request)
        return pb.ReturnResponse(approved=one.approved, provider_id=one.provider_id, decline_reason=one.decline_reason)

    async def Release(self, request: pb.ReleaseRequest, context: Any) -> pb.ReleaseResponse:
        one = self._decide("release", request)
        return pb.ReleaseResponse(approved=one.approved, provider_id=one.provider_id, decline_reason=one.decline_reason)

    def _decide(
        self, kind: str, request: pb.HoldRequest | pb.TakeRequest | pb.ReturnRequest | pb.ReleaseRequest
    ) -> Decision:
        with translated():
            return self._memory.decide(
                request.idempotency_key, Asked(kind, request.reference, money_of(request.amount))
            )
