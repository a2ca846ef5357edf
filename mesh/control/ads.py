"""ADS over mTLS: the data planes of one zone ask, and are told what their group is to know."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Container, Mapping
from typing import Any, Final

import grpc
from envoy.service.discovery.v3 import ads_pb2_grpc

from mesh.contract.model import RateLimit
from mesh.control.cache import SnapshotCache
from mesh.control.conversation import Ack, ConversationError, Nack
from mesh.control.snapshot import ORDER, Snapshot
from mesh.control.status import REASON_CHARACTERS_MAX, Plane, Planes
from mesh.control.stream import converse
from mesh.errors import MeshError, PermissionDenied, ResourceExhausted, Unimplemented
from mesh.logs import logger
from mesh.rates import Buckets
from mesh.tls import peer_of_call

_NODE_CHARACTERS_MAX: Final = 128
_TYPE_CHARACTERS_MAX: Final = 128
# Requests on one stream: one for each cluster when a client starts, and then an answer to each change.
_REQUESTS: Final = RateLimit(per_second=100, burst=1000)
_PACE_S: Final = 0.05
# What the log says of one workload in one respect: enough to see it, too little to fill a disk. By respect, or it could
# hide what is worse behind what is harmless.
_COMPLAINTS: Final = RateLimit(per_second=1, burst=5)


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
        known: Callable[[], Mapping[str, Container[str]]],
        sub_zone: Callable[[str, str], str] = lambda workload, node: "",
        name: str = "control",
    ) -> None:
        """groups: workload to group, for those that are not of the default one. known: the zone's workloads of now, and
        the nodes of each.

        sub_zone: where a workload's node stands. Which of its workload's nodes it is, a data plane says itself: all
        that follows is who comes first among endpoints that it knows anyway.
        """
        self._known = known
        self._sub_zone = sub_zone
        # All of a workload's streams may come at once when a control plane starts; then a quarter of them each second.
        arrivals = RateLimit(per_second=max(1, streams_per_workload_max // 4), burst=2 * streams_per_workload_max)
        self._arrivals = Buckets(arrivals)
        self._complaints = Buckets(_COMPLAINTS)
        self._name = name
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
        peer = peer_of_call(context)
        workload = peer.workload if peer else ""
        try:
            self._admit(workload)
        except MeshError as error:
            self._complain("data plane refused", workload, reason=error.reason)
            await context.abort(error.code, error.message, error.trailing_metadata())
        try:
            group = self._groups.get(workload, self._default_group)
            paced = self._paced(requests, workload)
            async with contextlib.aclosing(self._converse(paced, group, workload)) as responses:
                async for response in responses:
                    yield response
        except (ConversationError, TimeoutError) as error:
            self._complain("data plane cut off", workload, reason=str(error))
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
        if not self._arrivals.take(workload):
            raise ResourceExhausted("STREAMS_TOO_OFTEN", "this workload opens ADS streams too often")
        self._streams[workload] += 1

    async def _paced(self, requests: AsyncIterator[Any], workload: str) -> AsyncIterator[Any]:
        """The requests, but no more of them than a data plane has reason for: one that floods waits for itself."""
        pace = Buckets(_REQUESTS)
        async for request in requests:
            while not pace.take(""):
                self._complain("data plane slowed down", workload, reason="it asks too often")
                await asyncio.sleep(_PACE_S)
            yield request

    def _complain(self, event: str, workload: str, **about: object) -> None:
        if self._complaints.take(f"{workload} {event}"):
            self._log.warning(event, peer=workload, **about)

    def _place(self, workload: str, node: str) -> str:
        """Where the node stands. One that the table does not name is told what its certificate entitles it to."""
        if node not in self._known().get(workload, ()):
            self._complain("data plane of an unknown node", workload, node_id=node)
        return self._sub_zone(workload, node)

    async def _converse(self, requests: AsyncIterator[Any], group: str, workload: str) -> AsyncGenerator[Any, None]:
        changed = asyncio.Event()
        told = _Told(self._cache, self.planes, group, workload, self._place, self._complain)
        self._cache.subscribe(group, changed)
        try:
            responses = converse(requests, told.newest, changed, told, name=self._name)
            async with contextlib.aclosing(responses):
                async for response in responses:
                    yield response
        finally:
            self._cache.unsubscribe(group, changed)
            told.gone()


class _Told:
    """Notes what the data plane of one stream is told and answers. It has a name from its first request on."""

    def __init__(
        self,
        cache: SnapshotCache,
        planes: Planes,
        group: str,
        workload: str,
        place: Callable[[str, str], str],
        complain: Callable[..., None],
    ) -> None:
        self._cache = cache
        self._planes = planes
        self._group = group
        self._workload = workload
        self._place = place
        self._complain = complain
        self._sub_zone = ""
        self._plane: Plane | None = None

    def newest(self) -> Snapshot | None:
        return self._cache.get(self._group, self._sub_zone)

    def received(self, request: Any, event: Ack | Nack | None) -> None:
        if self._plane is None:
            node = request.node.id[:_NODE_CHARACTERS_MAX]
            self._plane = self._planes.connected(self._workload, node, self._group)
            self._sub_zone = self._place(self._workload, node)
        if request.type_url not in ORDER:
            kind = request.type_url[:_TYPE_CHARACTERS_MAX]
            self._complain("data plane asks for an unknown type", self._workload, node_id=self._plane.node, type=kind)
        if event is None:
            return
        self._plane.heard(event)
        if isinstance(event, Ack):
            self._cache.acknowledge(self._group, event.kind, event.version)
        else:
            reason = event.reason[:REASON_CHARACTERS_MAX]
            self._cache.reject(self._group, self._plane.node, event.kind, event.version, reason)

    def sent(self, kind: str, version: str) -> None:
        if self._plane is not None:
            self._plane.sent(kind, version)

    def gone(self) -> None:
        if self._plane is not None:
            self._plane.gone()
