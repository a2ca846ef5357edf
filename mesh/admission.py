"""What stands before a handler, as one step for each method, compiled from the contract when the server is built.

A call comes to be known (peer, deadline, trace) and is measured; its audit record is begun; it is checked by one rule
after another; the handler runs; the record is kept, and every exception becomes a rich status. The order is this
file's, the rules are others'.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Protocol

import grpc

from mesh import telemetry
from mesh.call import Call, begin
from mesh.contract import MethodPolicy
from mesh.deadlines import Deadlines, until
from mesh.errors import DeadlineExceeded, Internal, MeshError
from mesh.logs import logger
from mesh.redaction import Redaction
from mesh.spiffe import SpiffeId
from mesh.tls import peer_of_call

# Less than this and an answer could not even be sent.
_LEAST_S: Final = 0.001
_CORE_GATEWAY: Final = "core-gateway"
_FORWARDED: Final = "x-forwarded-client-cert"

if TYPE_CHECKING:
    # grpc's classes are generic to the type checker only.
    Context = grpc.aio.ServicerContext[Any, Any]

Behaviour = Callable[[Any, "Context"], Awaitable[Any]]
# Takes the call and its request, raises mesh.errors types. One that cannot tell at once returns what to wait for.
Check = Callable[[Call, Any], Awaitable[None] | None]


# The metadata of the call that a task serves. gRPC reads it to find the method; asking the context reads it again.
arrived: ContextVar[Iterable[tuple[str, str | bytes]]] = ContextVar("isthmus_arrived")


class Rule(Protocol):
    """Something that calls are held to."""

    def check(self, method: MethodPolicy) -> Check | None:
        """Made once for the method. None where nothing is asked of its calls."""


class Records(Protocol):
    """Keeps the records of one method's calls. What is returned has to be waited for before the answer may leave."""

    def begin(self, call: Call, request: Any) -> Any:
        """The call's record, to be handed to one of the others. Raises mesh.errors types when none could be kept."""

    def answered(self, record: Any) -> Awaitable[None] | None: ...

    def failed(self, record: Any, error: BaseException) -> Awaitable[None] | None: ...


class Audit(Protocol):
    """Leaves records of calls, of those that are refused too."""

    def records(self, method: MethodPolicy) -> Records | None:
        """Made once for the method. None where no call of it is on record."""


class _Unrecorded:
    """Records of a method that has none."""

    def begin(self, call: Call, request: Any) -> None: ...
    def answered(self, record: None) -> None: ...
    def failed(self, record: None, error: BaseException) -> None: ...


class Admission:
    """rules: in the order in which they are asked."""

    def __init__(self, rules: Sequence[Rule], audit: Audit | None, trace_ratio: float, redaction: Redaction) -> None:
        self._rules = tuple(rules)
        self._audit = audit
        self._trace_ratio = trace_ratio
        self._redaction = redaction
        self._deadlines = Deadlines()
        self._log = logger("server")

    def before(self, method: MethodPolicy, handle: Behaviour) -> Behaviour:
        """The handler of `method` with all that stands before it."""
        admit = self.checked(method, handle)
        measure = telemetry.call_durations(method.path)
        deadlines = self._deadlines

        async def traced(call: Call, request: Any, context: Context) -> Any:
            with telemetry.span(method.full_name, call.traceparent) as call.traceparent:
                return await admit(call, request, context)

        async def serve(request: Any, context: Context) -> Any:
            started = time.monotonic()
            call = self._arrived(method, context, started)
            begin(call)
            code = grpc.StatusCode.OK
            try:
                if call.deadline - started < _LEAST_S:
                    raise DeadlineExceeded("DEADLINE_TOO_SHORT", "the deadline has passed before the call arrived")
                step = traced if call.traceparent.endswith(telemetry.SAMPLED) else admit
                with until(deadlines, call.deadline):
                    return await step(call, request, context)
            except MeshError as error:
                code = error.code
                # What is said of a request repeats nothing of it that is above INTERNAL, whoever has worded it.
                scrub = self._redaction.scrubber(request)
                await context.abort(code, scrub(error.message), error.trailing_metadata(scrub))
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
                measure(code, time.monotonic() - started)

        return serve

    def checked(self, method: MethodPolicy, handle: Behaviour) -> Callable[[Call, Any, Context], Awaitable[Any]]:
        """The handler of `method` behind its checks, within its record. Raises what they raise."""
        checks = tuple(check for rule in self._rules if (check := rule.check(method)) is not None)
        records = (None if self._audit is None else self._audit.records(method)) or _Unrecorded()

        async def admit(call: Call, request: Any, context: Context) -> Any:
            record = records.begin(call, request)
            try:
                for check in checks:
                    waits = check(call, request)
                    if waits is not None:
                        await waits
                answer = await handle(request, context)
            except BaseException as error:
                waits = records.failed(record, error)
                if waits is not None:
                    await waits
                raise
            waits = records.answered(record)
            if waits is not None:
                await waits
            return answer

        return admit

    def _arrived(self, method: MethodPolicy, context: Context, now: float) -> Call:
        traceparent = authorization = through = ""
        for key, value in arrived.get():
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
            method,
            caller(presenter, through) if through else presenter,
            now + limit,
            traceparent or telemetry.new_traceparent(sampled=random.random() < self._trace_ratio),  # noqa: S311
            authorization,
            presenter=presenter,
        )


def caller(peer: SpiffeId | None, through: str) -> SpiffeId | None:
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
