"""Channels to other workloads: deadline, retries and trace of a call come from the contract, not the caller."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol, cast

import grpc
from opentelemetry.trace import SpanKind

from mesh import telemetry
from mesh.call import Call, find_call
from mesh.contract import Contract, MethodPolicy
from mesh.errors import RPC_FAILED, DeadlineExceeded, MeshError, Unavailable, from_rpc_error
from mesh.resilience import Circuit, RetryBudget
from mesh.spiffe import SpiffeId
from mesh.tls import Identity, require_tls13

# What this hop keeps of its caller's deadline, to turn a late answer into a typed error of its own.
_HOP_S: Final = 0.02
_LEAST_S: Final = 0.005
_XDS: Final = "xds:///"
# Before the first retry, at most; doubled for each further one. By chance, so that callers do not come together.
_BACKOFF_S: Final = 0.025
_BACKOFF_S_MAX: Final = 0.25
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", 4 << 20),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # Also what one attempt may take with its handshake, which a busy machine does not do in a tenth of that.
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.service_config_disable_resolution", 1),
)

Metadata = Sequence[tuple[str, str | bytes]]
# The authorization with which a method may be called within a call, on behalf of its subject; raises mesh.errors types.
Delegate = Callable[[Call, MethodPolicy], Awaitable[str]]


class Channels:
    """Every channel of a process, each opened once and closed together."""

    def __init__(self, identity: Identity, contract: Contract) -> None:
        self._identity = identity
        self._contract = contract
        self._open: dict[str, grpc.aio.Channel] = {}
        self._circuits: dict[str, Circuit] = {}
        self._delegate: Delegate | None = None

    def act_through(self, delegate: Delegate) -> None:
        """Ask `delegate` for the authorization of each call that is made within another. Without one, none is sent."""
        self._delegate = delegate

    def open(self, workload: str) -> grpc.aio.Channel:
        """A channel to whichever nodes of `workload` the control plane of the zone names.

        Its stubs raise mesh.errors types. The certificates are the xDS bootstrap's, rotated by gRPC itself.
        """
        target = f"{_XDS}{workload}"
        if target not in self._open:
            require_tls13()
            # The control plane demands mTLS for every cluster; without it the fallback has no roots and fails closed.
            fallback = grpc.ssl_channel_credentials(self._identity.leaf.bundle)
            channel = grpc.aio.secure_channel(target, grpc.xds_channel_credentials(fallback), options=_OPTIONS)
            # By itself a channel asks the control plane and shakes hands within its first call, out of its deadline.
            channel.get_state(try_to_connect=True)
            self._open[target] = channel
        return self._policed(target, hedged=True)

    def direct(self, address: str, peer: SpiffeId) -> grpc.aio.Channel:
        """A channel to one address, whose certificate must be `peer`'s. For operators, probes and tests."""
        target = f"{address}#{peer}"
        if target not in self._open:
            options = (*_OPTIONS, ("grpc.ssl_target_name_override", peer.dns_name))
            self._open[target] = grpc.aio.secure_channel(address, self._identity.channel_credentials(), options=options)
        return self._policed(target, hedged=False)

    @property
    def discover(self) -> bool:
        """Whether a channel follows the control plane."""
        return any(target.startswith(_XDS) for target in self._open)

    async def close(self, grace_s: float = 1.0) -> None:
        await asyncio.gather(*(channel.close(grace_s) for channel in self._open.values()))
        self._open.clear()

    async def _authorization(self, call: Call, method: MethodPolicy) -> str:
        return "" if self._delegate is None else await self._delegate(call, method)

    def _policed(self, target: str, *, hedged: bool) -> grpc.aio.Channel:
        # A stub asks a channel for nothing but its multi-callables, so that is all that is stood in for.
        circuit = self._circuits.setdefault(target, Circuit())
        policed = _PolicedChannel(self._open[target], self._contract, circuit, self._authorization, hedged)
        return cast(grpc.aio.Channel, policed)


class _Multicallable(Protocol):
    def __call__(self, request: Any, *, timeout: float, metadata: Metadata, wait_for_ready: bool | None) -> Any: ...


class _PolicedChannel:
    def __init__(
        self, channel: grpc.aio.Channel, contract: Contract, circuit: Circuit, delegate: Delegate, hedged: bool
    ) -> None:
        self._channel = channel
        self._contract = contract
        self._circuit = circuit
        self._delegate = delegate
        # One address alone has nobody else who could answer.
        self._hedged = hedged

    def unary_unary(
        self,
        path: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,  # what generated stubs pass; asyncio channels have no use for it
    ) -> Any:
        multicallable = cast(
            _Multicallable,
            self._channel.unary_unary(path, request_serializer, response_deserializer),
        )
        method = self._contract.methods.get(path)
        if method is None:
            return multicallable
        return _policed(multicallable, method, self._circuit, self._delegate, self._hedged)

    def __getattr__(self, name: str) -> Any:
        # Streams belong to infrastructure services, which bring their own rules.
        return getattr(self._channel, name)


def _policed(
    multicallable: _Multicallable, method: MethodPolicy, circuit: Circuit, delegate: Delegate, hedged: bool
) -> Any:
    budget = RetryBudget(method.retry_budget_percent)
    attempts = method.retry_attempts if method.idempotent else 1

    async def attempt(request: Any, ends: float, metadata: Metadata, wait_for_ready: bool | None) -> Any:
        """One try, or as many as policy and budget grant: gRPC could repeat by itself, but it keeps to no budget.

        A try that fails is repeated; beside one that stays without an answer another begins (a hedge, gRFC A6), since
        a process that froze takes calls as a healthy one does. Whichever answers first wins.
        """
        budget.earn()
        patience_s = (ends - time.monotonic()) / attempts if hedged else None
        flying: list[Any] = []
        try:
            for left in range(attempts - 1, -1, -1):
                if circuit.admits():
                    limit = ends - time.monotonic()
                    flying.append(
                        multicallable(request, timeout=limit, metadata=metadata, wait_for_ready=wait_for_ready)
                    )
                elif not flying:
                    raise Unavailable(
                        "CIRCUIT_OPEN",
                        f"nobody of {method.workload} has answered for a while",
                        remedy="try again later",
                    )
                within_s = patience_s if left else None
                while flying:
                    ended = await _first_ended(flying, within_s)
                    if ended is None:
                        if budget.spend():
                            break
                        within_s = None
                        continue
                    flying.remove(ended)
                    try:
                        return await _answered(ended, circuit)
                    except MeshError as failure:
                        if not _worth_another(failure, beside=bool(flying)):
                            raise
                        pause = random.uniform(0, min(_BACKOFF_S_MAX, _BACKOFF_S * 2 ** (attempts - 1 - left)))  # noqa: S311
                        again = left and ends - time.monotonic() - pause >= _LEAST_S and budget.spend()
                        if not again and not flying:
                            raise
                    if again:
                        await asyncio.sleep(pause)
                        break
        finally:
            for call in flying:
                call.cancel()
        raise AssertionError("the last attempt neither returned nor raised")

    async def invoke(
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        wait_for_ready: bool | None = None,
    ) -> Any:
        """Call the method. `timeout`, in seconds, can only shorten what the deadlines leave."""
        limit = method.deadline_s if timeout is None else min(timeout, method.deadline_s)
        headers: list[tuple[str, str | bytes]] = list(metadata or ())
        call = find_call()
        if call is None:
            traceparent = telemetry.new_traceparent()
        else:
            traceparent = call.traceparent
            if call.authorization and method.scopes:
                authorization = await delegate(call, method)
                if authorization:
                    headers.append(("authorization", authorization))
            limit = min(limit, call.deadline - time.monotonic() - _HOP_S)
        if limit < _LEAST_S:
            raise DeadlineExceeded("DEADLINE_TOO_SHORT", "what is left of the deadline is too short for another call")
        with telemetry.span(method.full_name, traceparent, SpanKind.CLIENT) as handed_on:
            headers.append((telemetry.HEADER, handed_on))
            return await attempt(request, time.monotonic() + limit, headers, wait_for_ready)

    return invoke


async def _answered(call: Any, circuit: Circuit) -> Any:
    """What a call that has ended was answered. Raises what it was refused with."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        failure = from_rpc_error(error)
        if _unreached(failure):
            circuit.missed()
        else:
            circuit.reached()
        raise failure from error
    circuit.reached()
    return answer


def _worth_another(failure: MeshError, *, beside: bool) -> bool:
    """Whether another try may fare better. One that ran out of time says nothing of those beside it."""
    return isinstance(failure, Unavailable) or (beside and isinstance(failure, DeadlineExceeded))


async def _first_ended(calls: Sequence[Any], within_s: float | None) -> Any:
    """A call of these that has ended, or None when none has within that time."""
    for call in calls:
        if call.done():
            return call
    ended = asyncio.get_running_loop().create_future()

    def wake(call: Any = None) -> None:
        if not ended.done():
            ended.set_result(call)

    for call in calls:
        call.add_done_callback(wake)
    timer = None if within_s is None else asyncio.get_running_loop().call_later(within_s, wake)
    try:
        return await ended
    finally:
        if timer is not None:
            timer.cancel()


def _unreached(error: MeshError) -> bool:
    """Nobody took the call, as far as is known: a service that refuses says so with a reason of its own."""
    return isinstance(error, Unavailable) and error.reason == RPC_FAILED
