"""Who may call what, and with what, compiled from the contract.

Guard: checks the peer against the method's callers; infrastructure services, which no contract names, included.
Fields: checks the request against its field rules, behind whatever checks the token: who holds none learns no rule.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import grpc
import protovalidate

from mesh.admission import Check
from mesh.call import Call
from mesh.contract import MethodPolicy
from mesh.contract.model import RateLimit
from mesh.errors import FieldViolation, InvalidArgument, MeshError, PermissionDenied, Unimplemented
from mesh.logs import logger
from mesh.rates import Buckets
from mesh.settings import ProcessSettings
from mesh.spiffe import SpiffeId
from mesh.tls import peer_of_call

_VIOLATIONS_MAX: Final = 20
# For an infrastructure service that looks at its callers itself: every workload of the server's own zone gets through.
ANY_OF_ZONE: Final = frozenset({"*"})
# What the log says of one peer that is refused: enough to see it, too little to fill a disk.
_COMPLAINTS: Final = RateLimit(per_second=1, burst=5)

if TYPE_CHECKING:
    # grpc's classes are generic to the type checker only.
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]

# Raises PermissionDenied.
PeerCheck = Callable[[SpiffeId | None], None]


class Guard:
    """Refuses peers that the policy does not name."""

    def __init__(self, infrastructure: Mapping[str, frozenset[str]], settings: ProcessSettings) -> None:
        self._infrastructure = infrastructure
        self._settings = settings
        self._complaints = Buckets(_COMPLAINTS)
        self._log = logger("server")

    def check(self, method: MethodPolicy) -> Check:
        admits = self._peer_check(method.callers, method.path)

        def check(call: Call, request: Any) -> None:
            admits(call.peer)

        return check

    def infrastructure(self, path: str, handler: Handler) -> Handler:
        """The handler of a service that no contract names, behind its peer check."""
        # Not known as infrastructure either: the builder would not add it, and it is closed too.
        callers = self._infrastructure.get(path.rsplit("/", 1)[0].lstrip("/"), frozenset())
        return _infrastructure(handler, self._told(self._peer_check(callers, path), path))

    def _told(self, check: PeerCheck, path: str) -> PeerCheck:
        """The same check, which names whom it refuses in the log: no audit record tells of these."""

        def told(peer: SpiffeId | None) -> None:
            try:
                check(peer)
            except PermissionDenied as error:
                if self._complaints.take(str(peer)):
                    self._log.warning("peer refused", peer=str(peer), method=path, reason=error.reason)
                raise

        return told

    def _peer_check(self, callers: frozenset[str], path: str) -> PeerCheck:
        if callers is ANY_OF_ZONE:
            return self._zone_check(path)
        allowed = self._allowed(callers)

        def check(peer: SpiffeId | None) -> None:
            if peer is None or peer.uri not in allowed:
                raise _not_named(peer, path)

        return check

    def _allowed(self, callers: frozenset[str]) -> frozenset[str]:
        # The transport has verified the chain; a workload of the same name in another zone is somebody else.
        own = self._settings
        return frozenset(SpiffeId(own.zone, workload, own.trust_domain).uri for workload in callers)

    def _zone_check(self, path: str) -> PeerCheck:
        own = self._settings

        def check(peer: SpiffeId | None) -> None:
            if peer is None or (peer.zone, peer.trust_domain) != (own.zone, own.trust_domain):
                raise PermissionDenied(
                    "CALLER_NOT_ALLOWED",
                    f"only workloads of the {own.zone} zone may call this",
                    metadata={"peer": str(peer), "method": path},
                )

        return check


class Fields:
    """Refuses requests that break the rules of their fields. Stands next to the handler."""

    def __init__(self) -> None:
        self._validator = protovalidate.Validator()

    def check(self, method: MethodPolicy) -> Check:
        return self._check

    def _check(self, call: Call, request: Any) -> None:
        violations = self._validator.collect_violations(request)
        if violations:
            raise InvalidArgument(
                "FIELDS_INVALID",
                "the request breaks the rules of its fields",
                fields=tuple(_violation(violation) for violation in violations[:_VIOLATIONS_MAX]),
            )


def _not_named(peer: SpiffeId | None, path: str) -> PermissionDenied:
    return PermissionDenied(
        "CALLER_NOT_ALLOWED",
        "this workload may not call this method",
        remedy="name the workload in the method's callers, in its .proto",
        metadata={"peer": str(peer), "method": path},
    )


def _violation(violation: Any) -> FieldViolation:
    path = ".".join(element.field_name for element in violation.proto.field.elements)
    return FieldViolation(path, violation.proto.message or violation.proto.rule_id)


def _infrastructure(handler: Any, check: PeerCheck) -> Handler:
    """The same handler behind the peer check, whatever its arity; no admission stands before it, so errors end here."""

    async def admit(context: Context) -> None:
        try:
            check(peer_of_call(context))
        except MeshError as error:
            await context.abort(error.code, error.message, error.trailing_metadata())

    if handler.request_streaming and handler.response_streaming:

        async def stream_stream(requests: Any, context: Any) -> Any:
            await admit(context)
            # Closed with the stream, and not when the collector comes by: what the handler holds is let go now.
            async with contextlib.aclosing(handler.stream_stream(requests, context)) as answers:
                async for answer in answers:
                    yield answer

        return grpc.stream_stream_rpc_method_handler(
            stream_stream, handler.request_deserializer, handler.response_serializer
        )
    if handler.response_streaming:

        async def unary_stream(request: Any, context: Any) -> Any:
            await admit(context)
            result = handler.unary_stream(request, context)
            if hasattr(result, "aclose"):
                async with contextlib.aclosing(result) as answers:
                    async for answer in answers:
                        yield answer
            else:
                await result

        return grpc.unary_stream_rpc_method_handler(
            unary_stream, handler.request_deserializer, handler.response_serializer
        )
    if handler.request_streaming:
        raise Unimplemented("STREAMING_UNSUPPORTED", "no infrastructure service takes a stream and answers once")

    async def unary_unary(request: Any, context: Any) -> Any:
        await admit(context)
        return await handler.unary_unary(request, context)

    return grpc.unary_unary_rpc_method_handler(unary_unary, handler.request_deserializer, handler.response_serializer)
