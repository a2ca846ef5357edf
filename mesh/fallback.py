"""A second server of configuration for one data plane, asked only while the first cannot be reached.

gRPC clients know it by their bootstrap (gRFC A71), Envoy by its own (xDS failover). It is ADS on a Unix socket that the
data plane's user alone can open, and knows what that data plane worked with last.
"""

import asyncio
import contextlib
import hashlib
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import grpc

from mesh.errors import MeshError, Unavailable
from mesh.lastgood import FILE, LastGood
from mesh.logs import logger

SOCKET: Final = "xds.sock"
# By which it calls itself in its answers.
NAME: Final = "last-good"
_BOOTSTRAP: Final = "GRPC_XDS_BOOTSTRAP"
_METHOD: Final = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
# Envoy looks for its first server again when a stream ends, and only then.
_STREAM_S: Final = 5.0
_STREAMS_MAX: Final = 4
_LOOK_S: Final = 5.0
# What has not changed is written all the same now and then: its age counts from when it was last worked with.
_WRITE_S: Final = 600.0

# What the data plane works with now, as a serialized ClientStatusResponse; b"" while there is nothing to keep.
Applied = Callable[[], Awaitable[bytes]]


class UnsafeSocketError(RuntimeError):
    """Somebody else could stand in for the fallback."""


class Fallback:
    """Serves the last good configuration, and keeps it. A service of the process that the data plane lives in, or of
    whoever watches over it."""

    def __init__(self, socket: Path, last_good: LastGood, applied: Applied) -> None:
        self._socket = socket
        self._last_good = last_good
        self._applied = applied
        self._seen = b""
        self._written = float("-inf")
        self._task: asyncio.Task[None] | None = None
        self._server: grpc.aio.Server | None = None
        self._log = logger("fallback")

    async def start(self) -> None:
        self._socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = self._socket.parent.stat()
        if about.st_uid != os.geteuid() or about.st_mode & 0o077:
            raise UnsafeSocketError(f"{self._socket.parent} is not this user's alone: remove it, it is made anew")
        self._socket.unlink(missing_ok=True)
        server = grpc.aio.server(handlers=(_Method(self._serve),), maximum_concurrent_rpcs=_STREAMS_MAX)
        server.add_insecure_port(f"unix:{self._socket}")
        self._socket.chmod(0o600)
        await server.start()
        self._server = server
        self._task = asyncio.create_task(self._follow(), name="last good")

    async def stop(self, grace_s: float) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._look()
        if self._server is not None:
            await self._server.stop(0)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            await self._look()

    async def _look(self) -> None:
        """Keep what is worked with now. A disk that is full, or a data plane that does not answer, changes nothing."""
        try:
            answer = await self._applied()
            seen, now = hashlib.sha256(answer).digest(), asyncio.get_running_loop().time()
            if answer and (seen != self._seen or now - self._written >= _WRITE_S):
                await asyncio.to_thread(self._last_good.keep, answer)
                self._seen, self._written = seen, now
        except (OSError, TimeoutError, ValueError) as error:
            self._log.warning("last good configuration not kept", reason=f"{type(error).__name__}: {error}")

    async def _serve(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        # They take long to load, in many processes that never ask.
        from envoy.service.discovery.v3 import discovery_pb2

        from mesh.control.conversation import ConversationError
        from mesh.control.stream import converse

        try:
            snapshot = await asyncio.to_thread(self._last_good.snapshot)
            self._log.warning("configured by what was good last", file=str(self._last_good.path))
            parsed = (discovery_pb2.DiscoveryRequest.FromString(each) async for each in _for_a_while(requests))
            responses = converse(parsed, lambda: snapshot, asyncio.Event(), _Nobody(), name=NAME)
            async with contextlib.aclosing(responses):
                async for response in responses:
                    yield response.SerializeToString()
        except (MeshError, ConversationError) as error:
            refusal = error if isinstance(error, MeshError) else Unavailable("LAST_GOOD_REFUSED", str(error))
            self._log.warning("no last good configuration", reason=refusal.reason, message=refusal.message)
            await context.abort(refusal.code, refusal.message, refusal.trailing_metadata())


async def _for_a_while(requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Those that come before the stream is to end."""
    with contextlib.suppress(TimeoutError, StopAsyncIteration):
        ends = asyncio.get_running_loop().time() + _STREAM_S
        while True:
            async with asyncio.timeout_at(ends):
                request = await anext(requests)
            yield request


class _Nobody:
    """Who observes a stream of the fallback."""

    def received(self, request: Any, event: object) -> None:
        """Refused resources stay with the data plane that worked with them."""

    def sent(self, kind: str, version: str) -> None:
        """The data plane says itself what it works with."""


class _Method(grpc.GenericRpcHandler):
    def __init__(self, behaviour: Any) -> None:
        self._handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(behaviour)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._handler if handler_call_details.method == _METHOD else None


def of_process(applied: Applied) -> Fallback | None:
    """The fallback of this process' own `xds:///` channels, where its bootstrap names one."""
    path = os.environ.get(_BOOTSTRAP)
    if path is None:
        return None
    servers = [each["server_uri"] for each in json.loads(Path(path).read_bytes())["xds_servers"]]
    sockets = [Path(each.removeprefix("unix:")) for each in servers if each.startswith("unix:")]
    return Fallback(sockets[0], LastGood(Path(path).with_name(FILE), by_name=True), applied) if sockets else None
