"""The control plane's own service: what it has told whom, for operators and internal systems."""

import json
from collections.abc import Callable
from typing import Final

import grpc
from isthmus.control.v1 import control_pb2 as pb
from isthmus.control.v1.control_pb2_grpc import ControlServicer

from mesh.control.health import State
from mesh.control.history import Change, Configuration, Difference, History, differences
from mesh.control.registry import Endpoint
from mesh.control.status import Plane, Planes
from mesh.errors import NotFound, ResourceExhausted

# What a channel of the mesh takes, less some room for headers.
_ANSWER_BYTES_MAX: Final = (4 << 20) - 4096
_US: Final = 1_000_000


class ControlService(ControlServicer):
    """Reads, and changes nothing. probed: every endpoint that is probed, with its state."""

    def __init__(self, planes: Planes, history: History, probed: Callable[[], list[tuple[Endpoint, State]]]) -> None:
        self._planes = planes
        self._history = history
        self._probed = probed

    async def ListDataPlanes(
        self,
        request: pb.ListDataPlanesRequest,
        context: grpc.aio.ServicerContext[pb.ListDataPlanesRequest, pb.ListDataPlanesResponse],
    ) -> pb.ListDataPlanesResponse:
        found = self._planes.after(request.after_workload, request.after_node, request.limit)
        return pb.ListDataPlanesResponse(data_planes=map(_data_plane, found))

    async def ListEndpoints(
        self,
        request: pb.ListEndpointsRequest,
        context: grpc.aio.ServicerContext[pb.ListEndpointsRequest, pb.ListEndpointsResponse],
    ) -> pb.ListEndpointsResponse:
        return pb.ListEndpointsResponse(endpoints=[_endpoint(*each) for each in self._probed()])

    async def ListChanges(
        self,
        request: pb.ListChangesRequest,
        context: grpc.aio.ServicerContext[pb.ListChangesRequest, pb.ListChangesResponse],
    ) -> pb.ListChangesResponse:
        found = (each for each in self._history.changes if request.group in ("", each.group))
        return pb.ListChangesResponse(changes=map(_change, found))

    async def CompareConfigurations(
        self,
        request: pb.CompareConfigurationsRequest,
        context: grpc.aio.ServicerContext[pb.CompareConfigurationsRequest, pb.CompareConfigurationsResponse],
    ) -> pb.CompareConfigurationsResponse:
        before, after = (self._kept(request.group, name) for name in (request.before, request.after))
        answer = pb.CompareConfigurationsResponse(differences=map(_difference, differences(before, after)))
        if answer.ByteSize() > _ANSWER_BYTES_MAX:
            raise ResourceExhausted(
                "DIFFERENCE_TOO_LARGE",
                f"what differs has {answer.ByteSize()} bytes, more than an answer may have",
                remedy="compare configurations that lie closer to each other",
            )
        return answer

    def _kept(self, group: str, name: str) -> Configuration:
        found = self._history.source(group, name)
        if found is None:
            raise NotFound(
                "CONFIGURATION_UNKNOWN",
                f"{group} has no configuration {name}",
                remedy="See them: isthmus config history",
            )
        return found


def _data_plane(plane: Plane) -> pb.DataPlane:
    told = [
        pb.Told(
            type_url=kind, sent=each.sent, acknowledged=each.acknowledged, rejected=each.rejected, reason=each.reason
        )
        for kind, each in plane.types.items()
    ]
    return pb.DataPlane(
        workload=plane.workload,
        node=plane.node,
        group=plane.group,
        since_us=round(plane.since * _US),
        connected=plane.connected,
        told=told,
    )


def _endpoint(endpoint: Endpoint, state: State) -> pb.Endpoint:
    return pb.Endpoint(
        workload=endpoint.workload,
        node=endpoint.node,
        address=str(endpoint),
        state=pb.EndpointState.Value(f"ENDPOINT_STATE_{state.name}"),
    )


def _change(change: Change) -> pb.Change:
    return pb.Change(
        group=change.group,
        configuration=change.configuration,
        offered_us=round(change.offered * _US),
        fate=pb.Fate.Value(f"FATE_{change.fate.name}"),
        decided_us=None if change.decided is None else round(change.decided * _US),
        node=change.node,
        type_url=change.kind,
        version=change.version,
        reason=change.reason,
    )


def _difference(difference: Difference) -> pb.Difference:
    sides = (difference.before, difference.after)
    before, after = (None if side is None else json.dumps(side) for side in sides)
    return pb.Difference(type_url=difference.kind, name=difference.name, before_json=before, after_json=after)
