"""The control planes of a mesh, asked for what they have told whom: each as the operator of its own zone."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from isthmus.control.v1 import control_pb2 as pb
from isthmus.control.v1.control_pb2_grpc import ControlStub

from deploy.local import topology
from deploy.local.errors import LauncherError, NotRunning, UnknownName
from deploy.local.settings import Home
from mesh.channel import Channels
from mesh.contract import load
from mesh.control.history import Change, Fate
from mesh.control.status import Plane, Told
from mesh.errors import DeadlineExceeded, MeshError, NotFound, Unavailable
from mesh.spiffe import ZONES, SpiffeId
from mesh.tls import Identity, IdentityError
from security.identity.topology import OPERATORS

if TYPE_CHECKING:
    from isthmus.control.v1.control_pb2_grpc import ControlAsyncStub

_PAGE: Final = 256
_US: Final = 1_000_000


@dataclass(frozen=True)
class Report:
    """What one control plane says."""

    control: str
    zone: str
    planes: list[Plane]
    changes: list[Change]
    # By node.
    endpoints: Mapping[str, pb.Endpoint]


@dataclass(frozen=True)
class Reports:
    found: list[Report] = field(default_factory=list)
    # Control planes that do not answer, and why.
    silent: Mapping[str, str] = field(default_factory=dict)

    @property
    def changes(self) -> list[Change]:
        return sorted((each for report in self.found for each in report.changes), key=lambda each: each.offered)

    @property
    def endpoints(self) -> list[pb.Endpoint]:
        return [each for report in self.found for _, each in sorted(report.endpoints.items())]


def zones_of(home: Home) -> list[str]:
    """Those that have a control plane here. Raises NotRunning where no mesh runs."""
    table = topology.read(home.topology)
    return [zone for zone in ZONES if table.of(f"control-{zone}")]


async def reports(home: Home) -> Reports:
    """What the control planes of both zones say. Raises NotRunning where none answers."""
    zones = zones_of(home)
    answers = await asyncio.gather(*(_report(home, zone) for zone in zones), return_exceptions=True)
    found, silent = [], {}
    for zone, answer in zip(zones, answers, strict=True):
        if isinstance(answer, Report):
            found.append(answer)
        elif isinstance(answer, MeshError | IdentityError):
            silent[f"control-{zone}"] = str(answer)
        else:
            raise answer
    if not found:
        told = "; ".join(f"{name}: {why}" for name, why in silent.items()) or "there is none"
        raise NotRunning(f"No control plane of {home.root} answers: {told}", "Start a mesh with `make run`")
    return Reports(found, silent)


@asynccontextmanager
async def told(home: Home, zone: str) -> AsyncIterator["ControlAsyncStub"]:
    """The control plane of a zone, to be told something. Raises LauncherError with what it refuses."""
    try:
        async with _asked(home, zone) as control:
            yield control
    except IdentityError as error:
        raise LauncherError(
            f"The operator of the {zone} zone has no identity: {error}", "See `isthmus status`"
        ) from error
    except NotFound as error:
        raise UnknownName(error.message, error.remedy) from error
    except (Unavailable, DeadlineExceeded) as error:
        raise NotRunning(f"control-{zone} does not answer: {error.message}", "See `isthmus check`") from error
    except MeshError as error:
        raise LauncherError(error.message, error.remedy or "See `isthmus check`") from error


async def retry(home: Home, group: str, configuration: str, record: str, within_s: float) -> Change:
    """Have a refused configuration offered once more, and wait for what becomes of it. Raises LauncherError."""
    report, before = newest(await reports(home), group, configuration)
    async with told(home, report.zone) as control:
        request = pb.RetryConfigurationRequest(group=group, configuration=configuration, record=record)
        await control.RetryConfiguration(request, wait_for_ready=True)
        ends = time.monotonic() + within_s
        while time.monotonic() < ends:
            answer = await control.ListChanges(pb.ListChangesRequest(group=group), wait_for_ready=True)
            change = _change(answer.changes[-1])
            if change.fate is not Fate.OFFERED and (change.decided, change.offered) != (before.decided, before.offered):
                return change
            await asyncio.sleep(0.1)
    raise LauncherError(f"{group} has not answered within {within_s:.0f} s", "See `isthmus config status`")


async def difference(home: Home, group: str, before: str, after: str) -> list[dict[str, Any]]:
    """The resources in which two configurations of a group differ: {type, name, change, before, after}."""
    report, _ = newest(await reports(home), group, before)
    async with told(home, report.zone) as control:
        answer = await control.CompareConfigurations(
            pb.CompareConfigurationsRequest(group=group, before=before, after=after), wait_for_ready=True
        )
    return [_difference(each) for each in answer.differences]


async def configuration(home: Home, group: str, name: str) -> list[dict[str, Any]]:
    """The resources of a configuration of a group, "" for its newest: {type, name, resource}. Raises LauncherError."""
    said = await reports(home)
    zone = next((report.zone for report in said.found if any(each.group == group for each in report.changes)), None)
    if zone is None:
        raise UnknownName(f"No control plane knows a group {group}", "See them: isthmus config history")
    async with told(home, zone) as control:
        request = pb.GetConfigurationRequest(group=group, configuration=name)
        answer = await control.GetConfiguration(request, wait_for_ready=True)
    return [
        {"type": short(each.type_url), "name": each.name, "resource": json.loads(each.json)}
        for each in answer.resources
    ]


def newest(said: Reports, group: str, configuration: str) -> tuple[Report, Change]:
    """The newest change of the group to which a configuration belongs, and who reports it. Raises UnknownName."""
    for report in said.found:
        changes = [change for change in report.changes if change.group == group]
        if any(change.configuration == configuration for change in changes):
            return report, changes[-1]
    raise UnknownName(f"{group} has no configuration {configuration}", "See them: isthmus config history")


def short(kind: str) -> str:
    """CDS for type.googleapis.com/envoy.config.cluster.v3.Cluster, and so on."""
    return _SHORT.get(kind.rsplit(".", 1)[-1], kind)


_SHORT: Final = {"Cluster": "CDS", "ClusterLoadAssignment": "EDS", "Listener": "LDS", "RouteConfiguration": "RDS"}


@asynccontextmanager
async def _asked(home: Home, zone: str) -> AsyncIterator["ControlAsyncStub"]:
    table = topology.read(home.topology)
    found = table.of(f"control-{zone}")
    if not found:
        raise NotRunning(f"{home.root} has no control-{zone}", "Start a mesh with `make run`")
    process = found[0]
    channels = Channels(Identity(home.identity(OPERATORS[zone].process)), load())
    try:
        peer = SpiffeId(zone, process.workload, table.trust_domain)
        yield ControlStub(channels.direct(str(process.listen("ads")), peer))
    finally:
        await channels.close(0)


async def _report(home: Home, zone: str) -> Report:
    async with _asked(home, zone) as control:
        changes, endpoints, planes = await asyncio.gather(
            # One that starts listens before it answers: it is waited for, as long as the deadline says.
            control.ListChanges(pb.ListChangesRequest(), wait_for_ready=True),
            control.ListEndpoints(pb.ListEndpointsRequest(), wait_for_ready=True),
            _planes(control),
        )
    return Report(
        f"control-{zone}",
        zone,
        planes,
        [_change(each) for each in changes.changes],
        {each.node: each for each in endpoints.endpoints},
    )


async def _planes(control: "ControlAsyncStub") -> list[Plane]:
    found: list[Plane] = []
    request = pb.ListDataPlanesRequest(limit=_PAGE)
    while True:
        page = (await control.ListDataPlanes(request, wait_for_ready=True)).data_planes
        found += (_plane(each) for each in page)
        if len(page) < _PAGE:
            return found
        request.after_workload, request.after_node = page[-1].workload, page[-1].node


def _plane(told: pb.DataPlane) -> Plane:
    types = {each.type_url: Told(each.sent, each.acknowledged, each.rejected, each.reason) for each in told.told}
    return Plane(told.workload, told.node, told.group, told.since_us / _US, int(told.connected), types)


def _change(told: pb.Change) -> Change:
    return Change(
        told.group,
        told.configuration,
        told.offered_us / _US,
        Fate[pb.Fate.Name(told.fate).removeprefix("FATE_")],
        told.decided_us / _US if told.HasField("decided_us") else None,
        told.node,
        told.type_url,
        told.version,
        told.reason,
    )


def _difference(told: pb.Difference) -> dict[str, Any]:
    before = json.loads(told.before_json) if told.HasField("before_json") else None
    after = json.loads(told.after_json) if told.HasField("after_json") else None
    change = "added" if before is None else "removed" if after is None else "changed"
    return {"type": short(told.type_url), "name": told.name, "change": change, "before": before, "after": after}


def state(endpoint: pb.Endpoint) -> str:
    """healthy, unhealthy, draining or unknown."""
    return pb.EndpointState.Name(endpoint.state).removeprefix("ENDPOINT_STATE_").lower()
