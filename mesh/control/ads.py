"""ADS over mTLS: the data planes of one zone ask, and are told what their group is to know."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Container, Mapping
from typing import Any, Final

import grpc
from envoy.service.discovery.v3 import ads_pb2_grpc

from mesh.control.cache import SnapshotCache
from mesh.control.conversation import Ack, Conversation, ConversationError, Nack
from mesh.control.status import REASON_CHARACTERS_MAX, Plane, Planes
from mesh.errors import MeshError, PermissionDenied, ResourceExhausted, Unimplemented
from mesh.logs import logger
from mesh.tls import peer_of

# Requests that a client may have sent ahead of their handling.
_INBOX_MAX: Final = 64
# How long a stream sleeps at most before it looks at its own deadlines.
_TICK_S: Final = 5.0
_NODE_CHARACTERS_MAX: Final = 128
_WARMING_TICK_S: Final = 0.25


class Ads(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):  # type: ignore[misc]
    """State-of-the-world ADS. A peer's group follows from its certificate, never from what it says of itself."""

    def __init__(
        self,
        cache: SnapshotCache,
        groups: Mapping[str, str],
        default_group: str,
        *,
        streams_max: int,
        streams_per_workload_max: int,
        known: Callable[[], Container[str]],
    ) -> None:
        """groups: workload to group, for those that are not of the default one. known: the zone's workloads of now."""
        self._known = known
        self._cache = cache
        self._groups = groups
        self._default_group = default_group
        self._streams_max = streams_max
        self._streams_per_workload_max = streams_per_workload_max
        self._streams: Counter[str] = Counter()
        self.planes = Planes()
        self._log = logger("control")

    async def StreamAggregatedResources(
        self, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        peer = peer_of(context.auth_context())
        workload = peer.workload if peer else ""
        try:
            self._admit(workload)
        except MeshError as error:
            await context.abort(error.code, error.message, error.trailing_metadata())
        try:
            group = self._groups.get(workload, self._default_group)
            async with contextlib.aclosing(self._converse(requests, group, workload)) as responses:
                async for response in responses:
                    yield response
        except (ConversationError, TimeoutError) as error:
            self._log.warning("data plane cut off", peer=workload, reason=str(error))
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        finally:
            self._streams[workload] -= 1

    async def DeltaAggregatedResources(
        self, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        error = Unimplemented("DELTA_UNSUPPORTED", "this control plane speaks state of the world only")
        await context.abort(error.code, error.message, error.trailing_metadata())
        yield  # Never reached; it makes this a stream.

    @property
    def open_streams(self) -> int:
        return self._streams.total()

    def _admit(self, workload: str) -> None:
        if not workload:
            raise PermissionDenied("CALLER_NOT_ALLOWED", "a data plane must show its SPIFFE id")
        if workload not in self._known():
            raise PermissionDenied(
                "DATA_PLANE_UNKNOWN",
                f"no {workload} is in the zone's table of processes",
                remedy="add it to the table; it is read again at once",
            )
        full = self._streams.total() >= self._streams_max
        if full or self._streams[workload] >= self._streams_per_workload_max:
            raise ResourceExhausted("STREAMS_EXHAUSTED", "too many ADS streams are open")
        self._streams[workload] += 1

    async def _converse(self, requests: AsyncIterator[Any], group: str, workload: str) -> AsyncGenerator[Any, None]:
        conversation = Conversation()
        inbox: asyncio.Queue[Any] = asyncio.Queue(_INBOX_MAX)
        wake = asyncio.Event()
        reader = asyncio.create_task(_read(requests, inbox, wake), name=f"ads {workload}")
        plane: Plane | None = None
        self._cache.subscribe(group, wake)
        try:
            while True:
                wake.clear()
                while not inbox.empty():
                    request = inbox.get_nowait()
                    if plane is None:
                        plane = self.planes.connected(workload, request.node.id[:_NODE_CHARACTERS_MAX], group)
                    self._note(plane, conversation.receive(request))
                snapshot = self._cache.get(group)
                response = conversation.next(snapshot, time.monotonic()) if snapshot else None
                if response is not None:
                    if plane is not None:
                        plane.sent(response.type_url, response.version_info)
                    yield response
                    continue
                if reader.done() and inbox.empty():
                    return
                if conversation.overdue(time.monotonic()):
                    raise TimeoutError("an answer was neither acknowledged nor refused")
                tick = _WARMING_TICK_S if conversation.waits_for_warmth() else _TICK_S
                await _wait(wake, tick)
        finally:
            reader.cancel()
            self._cache.unsubscribe(group, wake)
            if plane is not None:
                plane.connected = False

    def _note(self, plane: Plane, event: Ack | Nack | None) -> None:
        if event is None:
            return
        plane.heard(event)
        if isinstance(event, Ack):
            self._cache.acknowledge(plane.group, event.kind, event.version)
        else:
            reason = event.reason[:REASON_CHARACTERS_MAX]
            self._cache.reject(plane.group, plane.node, event.kind, event.version, reason)


async def _read(requests: AsyncIterator[Any], inbox: asyncio.Queue[Any], wake: asyncio.Event) -> None:
    try:
        async for request in requests:
            await inbox.put(request)
            wake.set()
    finally:
        wake.set()


async def _wait(wake: asyncio.Event, at_most_s: float) -> None:
    try:
        async with asyncio.timeout(at_most_s):
            await wake.wait()
    except TimeoutError:
        return
