"""The control plane's own service: what it has told whom, and what its operator lays over that for a while."""

import json
import time
from collections.abc import Callable, Mapping
from typing import Final, Protocol, TypeVar

import grpc
from google.protobuf.message import Message
from isthmus.control.v1 import control_pb2 as pb
from isthmus.control.v1.control_pb2_grpc import ControlServicer

from mesh.call import current_call
from mesh.contract import MethodPolicy
from mesh.control.health import State
from mesh.control.history import Change, Configuration, Difference, Fate, History, differences
from mesh.control.overrides import Fault, OverrideBook, Split
from mesh.control.registry import Endpoint
from mesh.control.status import Plane, Planes
from mesh.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from mesh.logs import logger

# What a channel of the mesh takes, less some room for headers.
_ANSWER_BYTES_MAX: Final = (4 << 20) - 4096
_US: Final = 1_000_000
_Answer = TypeVar("_Answer", bound=Message)
_HISTORY: Final = "See them: isthmus config history"


class Plan(Protocol):
    """What is being told, and by what rules."""

    overrides: OverrideBook

    @property
    def methods(self) -> Mapping[str, MethodPolicy]:
        """Those of the zone, by path."""
        ...

    def probed(self) -> list[tuple[Endpoint, State]]: ...
    def retry(self, group: str, configuration: str) -> None: ...


class ControlService(ControlServicer):
    def __init__(self, planes: Planes, history: History, plan: Plan, now: Callable[[], float] = time.time) -> None:
        self._planes = planes
        self._history = history
        self._plan = plan
        self._now = now
        self._log = logger("control")

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
        return pb.ListEndpointsResponse(endpoints=[_endpoint(*each) for each in self._plan.probed()])

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
        return _bounded(answer, "compare configurations that lie closer to each other: isthmus config diff")

    async def GetConfiguration(
        self,
        request: pb.GetConfigurationRequest,
        context: grpc.aio.ServicerContext[pb.GetConfigurationRequest, pb.GetConfigurationResponse],
    ) -> pb.GetConfigurationResponse:
        newest = self._history.newest(request.group)
        name = request.configuration or (newest.configuration if newest is not None else "")
        found = [
            pb.Resource(type_url=kind, name=each, json=json.dumps(resource))
            for kind, resources in sorted(self._kept(request.group, name).items())
            for each, resource in sorted(resources.items())
        ]
        answer = pb.GetConfigurationResponse(configuration=name, resources=found)
        return _bounded(answer, "read it where the control plane keeps it: run/<name>/configurations/ of its home")

    async def InjectFault(
        self,
        request: pb.InjectFaultRequest,
        context: grpc.aio.ServicerContext[pb.InjectFaultRequest, pb.InjectFaultResponse],
    ) -> pb.InjectFaultResponse:
        if request.method not in self._plan.methods:
            raise NotFound(
                "METHOD_UNKNOWN",
                f"this zone has no method {request.method}",
                remedy="See them all: isthmus policy table",
            )
        mandate = request.mandate
        ends = self._now() + mandate.life_s
        fault = Fault(request.method, request.percent, ends, request.delay_ms, request.abort, mandate.record)
        self._plan.overrides.lay(fault)
        self._say("fault laid", mandate.record, of=fault.of, percent=fault.percent, life_s=mandate.life_s)
        return pb.InjectFaultResponse()

    async def SplitTraffic(
        self,
        request: pb.SplitTrafficRequest,
        context: grpc.aio.ServicerContext[pb.SplitTrafficRequest, pb.SplitTrafficResponse],
    ) -> pb.SplitTrafficResponse:
        known = {each.node for each, _ in self._plan.probed() if each.workload == request.workload}
        if unknown := sorted(set(request.nodes) - known):
            raise NotFound(
                "NODE_UNKNOWN",
                f"{request.workload} has no node {', '.join(unknown)}",
                remedy=f"It has {', '.join(sorted(known)) or 'none'}",
            )
        if known == set(request.nodes):
            raise InvalidArgument(
                "SPLIT_OF_ALL",
                f"these are all nodes of {request.workload}: nobody is left for the rest of its calls",
                remedy="Name some of them",
            )
        mandate = request.mandate
        ends = self._now() + mandate.life_s
        split = Split(request.workload, tuple(request.nodes), request.percent, ends, mandate.record)
        self._plan.overrides.lay(split)
        self._say("split laid", mandate.record, of=split.of, percent=split.percent, life_s=mandate.life_s)
        return pb.SplitTrafficResponse()

    async def ListOverrides(
        self,
        request: pb.ListOverridesRequest,
        context: grpc.aio.ServicerContext[pb.ListOverridesRequest, pb.ListOverridesResponse],
    ) -> pb.ListOverridesResponse:
        now = self._plan.overrides.current
        return pb.ListOverridesResponse(faults=map(_fault, now.faults), splits=map(_split, now.splits))

    async def ClearOverrides(
        self,
        request: pb.ClearOverridesRequest,
        context: grpc.aio.ServicerContext[pb.ClearOverridesRequest, pb.ClearOverridesResponse],
    ) -> pb.ClearOverridesResponse:
        ended = self._plan.overrides.clear(request.of)
        self._say("overrides ended", "", of=request.of or "all", ended=ended)
        return pb.ClearOverridesResponse(ended=ended)

    async def RetryConfiguration(
        self,
        request: pb.RetryConfigurationRequest,
        context: grpc.aio.ServicerContext[pb.RetryConfigurationRequest, pb.RetryConfigurationResponse],
    ) -> pb.RetryConfigurationResponse:
        newest = self._history.newest(request.group)
        if newest is None:
            raise NotFound("GROUP_UNKNOWN", f"there is no group {request.group}", remedy=_HISTORY)
        if newest.configuration != request.configuration or newest.fate not in (Fate.REJECTED, Fate.WITHHELD):
            raise FailedPrecondition(
                "CONFIGURATION_NOT_REFUSED",
                f"{request.configuration} is not what {request.group} was refused last",
                remedy=f"Only the newest one can be offered again. {_HISTORY}",
            )
        self._plan.retry(request.group, request.configuration)
        self._say("retry asked for", request.record, group=request.group, configuration=request.configuration)
        return pb.RetryConfigurationResponse()

    def _say(self, what: str, record: str, **about: object) -> None:
        self._log.warning(what, by=str(current_call().peer), record=record, **about)

    def _kept(self, group: str, name: str) -> Configuration:
        found = self._history.source(group, name)
        if found is None:
            raise NotFound(
                "CONFIGURATION_UNKNOWN",
                f"{group} has no configuration {name}",
                remedy=_HISTORY,
            )
        return found


def _bounded(answer: _Answer, remedy: str) -> _Answer:
    if answer.ByteSize() > _ANSWER_BYTES_MAX:
        raise ResourceExhausted(
            "ANSWER_TOO_LARGE",
            f"the answer has {answer.ByteSize()} bytes, more than one may have",
            remedy=remedy,
        )
    return answer


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


def _fault(fault: Fault) -> pb.Fault:
    return pb.Fault(
        method=fault.method,
        percent=fault.percent,
        delay_ms=fault.delay_ms,
        abort=fault.abort,
        expires_us=round(fault.expires * _US),
        record=fault.record,
    )


def _split(split: Split) -> pb.Split:
    return pb.Split(
        workload=split.workload,
        nodes=split.nodes,
        percent=split.percent,
        expires_us=round(split.expires * _US),
        record=split.record,
    )
