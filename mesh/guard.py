"""What every call passes through before it reaches a handler, compiled from the contract.

Entry: makes the Call (peer, deadline, trace), measures it, and turns every exception into a rich status.
Guard: checks the peer against the method's callers.
Fields: checks the request against its field rules, behind whatever checks the token: who holds none learns no rule.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, cast

import grpc
import protovalidate

from mesh import telemetry
from mesh.call import Call, begin, current_call
from mesh.contract import Contract, MethodPolicy
from mesh.contract.model import RateLimit
from mesh.errors import (
    DeadlineExceeded,
    FieldViolation,
    Internal,
    InvalidArgument,
    MeshError,
    PermissionDenied,
    Unimplemented,
)
from mesh.logs import logger
from mesh.rates import Buckets
from mesh.settings import ProcessSettings
from mesh.spiffe import SpiffeId
from mesh.tls import peer_of_call

# Less than this and an answer could not even be sent.
_LEAST_S: Final = 0.001
_VIOLATIONS_MAX: Final = 20
# For an infrastructure service that looks at its callers itself: every workload of the server's own zone gets through.
ANY_OF_ZONE: Final = frozenset({"*"})
# What the log says of one peer that is refused: enough to see it, too little to fill a disk.
_COMPLAINTS: Final = RateLimit(per_second=1, burst=5)
_CORE_GATEWAY: Final = "core-gateway"
_FORWARDED: Final = "x-forwarded-client-cert"

if TYPE_CHECKING:
    # grpc's classes are generic to the type checker only.
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]

Behaviour = Callable[[Any, "Context"], Awaitable[Any]]
# Raises PermissionDenied.
PeerCheck = Callable[[SpiffeId | None], None]
Continuation = Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]]


class Entry(grpc.aio.ServerInterceptor):
    def __init__(self, contract: Contract, settings: ProcessSettings) -> None:
        self._methods = contract.methods
        self._trace_ratio = settings.trace_ratio
        self._log = logger("server")

    async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
        method = self._methods.get(details.method)
        handler = await continuation(details)
        if method is None or handler is None or handler.unary_unary is None:
            return handler
        return _unary(handler, self._wrap(method, cast(Behaviour, handler.unary_unary)))

    def _wrap(self, method: MethodPolicy, handle: Behaviour) -> Behaviour:
        measure = telemetry.call_durations(method.path)

        async def enter(request: Any, context: Context) -> Any:
            started = time.monotonic()
            call = self._call(method, context, started)
            begin(call)
            code = grpc.StatusCode.OK
            try:
                with telemetry.span(method.full_name, call.traceparent) as call.traceparent:
                    remaining = call.remaining_s()
                    if remaining < _LEAST_S:
                        raise DeadlineExceeded("DEADLINE_TOO_SHORT", "the deadline has passed before the call arrived")
                    async with asyncio.timeout(remaining):
                        return await handle(request, context)
            except MeshError as error:
                code = error.code
                await context.abort(code, error.message, error.trailing_metadata())
            except TimeoutError:
                late = DeadlineExceeded("DEADLINE_EXCEEDED", f"not done within {method.deadline_ms} ms")
                code = late.code
                await context.abort(code, late.message, late.trailing_metadata())
            except (grpc.aio.AbortError, asyncio.CancelledError):
                code = grpc.StatusCode.CANCELLED
                raise
            except Exception:
                code = grpc.StatusCode.INTERNAL
                self._log.exception("call failed", conceal=request, method=method.path)
                failed = Internal("INTERNAL", "the service failed on this call", metadata={"trace_id": call.trace_id})
                await context.abort(code, failed.message, failed.trailing_metadata())
            finally:
                measure(code.name, time.monotonic() - started)

        return enter

    def _call(self, method: MethodPolicy, context: Context, now: float) -> Call:
        traceparent = authorization = through = ""
        for key, value in context.invocation_metadata() or ():
            if key == telemetry.HEADER and isinstance(value, str):
                traceparent = telemetry.valid_traceparent(value)
            elif key == "authorization" and isinstance(value, str):
                authorization = value
            elif key == _FORWARDED and isinstance(value, str):
                through = value
        granted = context.time_remaining()
        limit = method.deadline_s if granted is None else min(granted, method.deadline_s)
        presenter = peer_of_call(context)
        return Call(
            method=method,
            peer=_caller(presenter, through),
            deadline=now + limit,
            traceparent=traceparent or telemetry.new_traceparent(sampled=random.random() < self._trace_ratio),  # noqa: S311
            authorization=authorization,
            presenter=presenter,
        )


def _caller(peer: SpiffeId | None, through: str) -> SpiffeId | None:
    """Who calls: the peer, or the workload of its zone whom the core gateway let in natively.

    The gateway writes that header itself, from the certificate that it has verified, and takes away any that came. For
    the edge gateway it stands for nobody in particular, and is the caller itself.
    """
    if peer is None or peer.workload != _CORE_GATEWAY:
        return peer
    names = [part.removeprefix("URI=") for part in through.split(";") if part.startswith("URI=")]
    try:
        (name,) = names
        named = SpiffeId.parse(name)
    except ValueError:
        return peer
    return named if (named.zone, named.trust_domain) == (peer.zone, peer.trust_domain) else peer


class Guard(grpc.aio.ServerInterceptor):
    """Refuses peers that the policy does not name."""

    def __init__(
        self, contract: Contract, infrastructure: Mapping[str, frozenset[str]], settings: ProcessSettings
    ) -> None:
        self._contract = contract
        self._infrastructure = infrastructure
        self._settings = settings
        self._complaints = Buckets(_COMPLAINTS)
        self._log = logger("server")

    async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        return None if handler is None else self._guard(details.method, handler)

    def _guard(self, path: str, handler: Handler) -> Handler:
        service = path.rsplit("/", 1)[0].lstrip("/")
        method = self._contract.methods.get(path)
        if method is not None and handler.unary_unary is not None:
            return _unary(handler, self._business(method, cast(Behaviour, handler.unary_unary)))
        callers = self._infrastructure.get(service)
        if callers is None:
            # Not in the contract, not known infrastructure: the builder would not add it, and it is closed too.
            callers = frozenset()
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

    def _business(self, method: MethodPolicy, handle: Behaviour) -> Behaviour:
        check = self._peer_check(method.callers, method.path)

        async def guarded(request: Any, context: Context) -> Any:
            check(current_call().peer)
            return await handle(request, context)

        return guarded

    def _peer_check(self, callers: frozenset[str], path: str) -> PeerCheck:
        own = self._settings
        if callers is ANY_OF_ZONE:
            return self._zone_check(path)
        # The transport has verified the chain; a workload of the same name in another zone is somebody else.
        allowed = frozenset(SpiffeId(own.zone, workload, own.trust_domain) for workload in callers)

        def check(peer: SpiffeId | None) -> None:
            if peer not in allowed:
                raise PermissionDenied(
                    "CALLER_NOT_ALLOWED",
                    "this workload may not call this method",
                    remedy="name the workload in the method's callers, in its .proto",
                    metadata={"peer": str(peer), "method": path},
                )

        return check

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


class Fields(grpc.aio.ServerInterceptor):
    """Refuses requests that break the rules of their fields. Stands next to the handler."""

    def __init__(self, contract: Contract) -> None:
        self._methods = contract.methods
        self._validator = protovalidate.Validator()

    async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        if details.method not in self._methods or handler is None or handler.unary_unary is None:
            return handler
        handle, validate = cast(Behaviour, handler.unary_unary), self._validate

        async def checked(request: Any, context: Context) -> Any:
            validate(request)
            return await handle(request, context)

        return _unary(handler, checked)

    def _validate(self, request: Any) -> None:
        violations = self._validator.collect_violations(request)
        if violations:
            raise InvalidArgument(
                "FIELDS_INVALID",
                "the request breaks the rules of its fields",
                fields=tuple(_violation(violation) for violation in violations[:_VIOLATIONS_MAX]),
            )


def _violation(violation: Any) -> FieldViolation:
    path = ".".join(element.field_name for element in violation.proto.field.elements)
    return FieldViolation(path, violation.proto.message or violation.proto.rule_id)


def _unary(handler: Handler, behaviour: Behaviour) -> Handler:
    return grpc.unary_unary_rpc_method_handler(
        behaviour,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


def _infrastructure(handler: Any, check: PeerCheck) -> Handler:
    """The same handler behind the peer check, whatever its arity; these are outside of Entry, so errors end here."""

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
