"""What a control plane answers about itself, over the mesh's own transport, and whom it answers."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from isthmus.control.v1 import control_pb2 as pb
from isthmus.control.v1 import control_pb2_grpc

from mesh.contract import load
from mesh.control.conversation import Ack, Nack
from mesh.control.health import State
from mesh.control.history import Configuration, History
from mesh.control.overrides import OverrideBook, Overrides
from mesh.control.registry import Endpoint
from mesh.control.service import ControlService
from mesh.control.snapshot import CLUSTER, LISTENER
from mesh.control.status import Planes
from mesh.errors import FailedPrecondition, InvalidArgument, MeshError, NotFound, PermissionDenied, Unavailable
from mesh.server import ServerBuilder, UnsafeServerError
from mesh.spiffe import SpiffeId
from tests.unit.control.test_conversation import snapshot
from tests.unit.mesh.conftest import Member, Zone

OLD: Configuration = {
    LISTENER: {"edge": {"name": "edge", "port": 1}, "gone": {"name": "gone"}},
    CLUSTER: {"a": {"name": "a"}},
}
NEW: Configuration = {
    LISTENER: {"edge": {"name": "edge", "port": 2}},
    CLUSTER: {"a": {"name": "a"}, "b": {"name": "b"}},
}
DECIDE = "/isthmus.ads.v1.Ads/Decide"
RECORD = "0123456789abcdef" * 2
ENDPOINT = Endpoint("edge", "grpc", "edge-1", "public", "127.0.0.1", 20001)
OTHER = Endpoint("edge", "grpc", "edge-2", "public", "127.0.0.1", 20002)


class Plan:
    """What the service asks of a planner."""

    def __init__(self, path: Path) -> None:
        self.retried: list[tuple[str, str]] = []
        self.endpoints = [ENDPOINT]
        self.overrides = OverrideBook(path / "overrides.json", lambda: None)
        self.methods = {path: method for path, method in load().methods.items() if method.zone == "public"}

    def probed(self) -> list[tuple[Endpoint, State]]:
        return [(each, State.HEALTHY) for each in self.endpoints]

    def retry(self, group: str, configuration: str) -> None:
        self.retried.append((group, configuration))


@asynccontextmanager
async def serving(member: Member, planes: Planes, history: History, plan: Plan) -> AsyncIterator[None]:
    service = ControlService(planes, history, plan)
    server = ServerBuilder(member).add(control_pb2_grpc.add_ControlServicer_to_server, service).build()
    await server.start()
    try:
        yield
    finally:
        await server.stop(0)


@asynccontextmanager
async def asking(caller: Member, of: Member) -> AsyncIterator["control_pb2_grpc.ControlAsyncStub"]:
    channels = caller.channels
    peer = SpiffeId(of.settings.zone, of.settings.workload)
    try:
        yield control_pb2_grpc.ControlStub(channels.direct(of.settings.grpc_address or "", peer))
    finally:
        await channels.close(0)


@pytest.mark.parametrize("name", ["public", "private"])
async def test_the_control_plane_of_a_zone_tells_the_operator_of_that_zone_alone(tmp_path: Path, name: str) -> None:
    here = Zone(tmp_path, name)
    other = Zone(tmp_path, "private" if name == "public" else "public")
    control = here.join(f"control-{name}")
    planes, history = Planes(now=lambda: 1.5), History(tmp_path / "kept", now=lambda: 2.25)
    plane = planes.connected("edge", "edge-1", "grpc")
    plane.sent(CLUSTER, "v1")
    plane.heard(Ack(CLUSTER, "v1"))
    plane.sent(LISTENER, "v2")
    plane.heard(Nack(LISTENER, "v2", "cannot bind"))
    old, new = snapshot(["a"]), snapshot(["a"], mark=1)
    history.offered("grpc", old, OLD)
    history.accepted("grpc", old)
    history.offered("grpc", new, NEW)
    history.rejected("grpc", new.configuration, "edge-1", LISTENER, "v2", "cannot bind")

    async with serving(control, planes, history, Plan(tmp_path)), asking(here.join("operator"), control) as stub:
        (seen,) = (await stub.ListDataPlanes(pb.ListDataPlanesRequest(limit=10))).data_planes
        assert (seen.workload, seen.node, seen.since_us, seen.connected) == ("edge", "edge-1", 1_500_000, True)
        told = {each.type_url: each for each in seen.told}
        assert (told[CLUSTER].sent, told[CLUSTER].acknowledged) == ("v1", "v1")
        assert (told[LISTENER].rejected, told[LISTENER].reason) == ("v2", "cannot bind")

        (endpoint,) = (await stub.ListEndpoints(pb.ListEndpointsRequest())).endpoints
        assert endpoint == pb.Endpoint(
            workload="edge", node="edge-1", address="127.0.0.1:20001", state=pb.ENDPOINT_STATE_HEALTHY
        )

        good, rejected = (await stub.ListChanges(pb.ListChangesRequest())).changes
        assert (good.fate, good.offered_us, good.configuration) == (pb.FATE_GOOD, 2_250_000, old.configuration)
        assert (rejected.fate, rejected.node, rejected.reason) == (pb.FATE_REJECTED, "edge-1", "cannot bind")
        assert not (await stub.ListChanges(pb.ListChangesRequest(group="edge-gateway"))).changes

        request = pb.CompareConfigurationsRequest(group="grpc", before=old.configuration, after=new.configuration)
        found = (await stub.CompareConfigurations(request)).differences
        assert [(each.type_url, each.name, each.before_json, each.after_json) for each in found] == [
            (CLUSTER, "b", "", '{"name": "b"}'),
            (LISTENER, "edge", '{"name": "edge", "port": 1}', '{"name": "edge", "port": 2}'),
            (LISTENER, "gone", '{"name": "gone"}', ""),
        ]
        newest = await stub.GetConfiguration(pb.GetConfigurationRequest(group="grpc"))
        assert newest.configuration == new.configuration
        assert [(each.type_url, each.name, each.json) for each in newest.resources] == [
            (CLUSTER, "a", '{"name": "a"}'),
            (CLUSTER, "b", '{"name": "b"}'),
            (LISTENER, "edge", '{"name": "edge", "port": 2}'),
        ]
        before = await stub.GetConfiguration(pb.GetConfigurationRequest(group="grpc", configuration=old.configuration))
        assert [each.name for each in before.resources] == ["a", "edge", "gone"]
        with pytest.raises(NotFound):
            await stub.GetConfiguration(pb.GetConfigurationRequest(group="edge-gateway"))
        request.after = "0" * 12
        with pytest.raises(NotFound, match=r"grpc has no configuration 0+"):
            await stub.CompareConfigurations(request)
        # Not a way to other files.
        request.group = "../kept/grpc"
        with pytest.raises(InvalidArgument):
            await stub.CompareConfigurations(request)

    async with serving(control, planes, history, Plan(tmp_path)):
        async with asking(here.join("edge"), control) as stub:
            with pytest.raises(PermissionDenied):
                await stub.ListEndpoints(pb.ListEndpointsRequest())
        async with asking(other.join("operator"), control) as stub:
            # No root of the other zone is trusted, so there is no handshake.
            with pytest.raises(Unavailable):
                await stub.ListEndpoints(pb.ListEndpointsRequest())


async def test_data_planes_are_told_page_by_page(tmp_path: Path) -> None:
    zone = Zone(tmp_path, "private")
    control = zone.join("control-private")
    planes = Planes()
    for number in range(5):
        planes.connected("orders", f"orders-{number}", "grpc")
    nodes = []
    async with serving(control, planes, History(), Plan(tmp_path)), asking(zone.join("operator"), control) as stub:
        request = pb.ListDataPlanesRequest(limit=2)
        while page := (await stub.ListDataPlanes(request)).data_planes:
            nodes.append([each.node for each in page])
            request.after_workload, request.after_node = page[-1].workload, page[-1].node
        with pytest.raises(InvalidArgument):
            await stub.ListDataPlanes(pb.ListDataPlanesRequest(limit=257))
    assert nodes == [["orders-0", "orders-1"], ["orders-2", "orders-3"], ["orders-4"]]


async def test_overrides_are_laid_listed_and_ended_and_each_names_its_record(tmp_path: Path) -> None:
    zone = Zone(tmp_path, "public")
    control = zone.join("control-public")
    plan = Plan(tmp_path)
    plan.endpoints.append(OTHER)
    mandate = pb.Mandate(life_s=60, record=RECORD)
    fault = pb.InjectFaultRequest(method=DECIDE, percent=30, abort="UNAVAILABLE", mandate=mandate)
    split = pb.SplitTrafficRequest(workload="edge", nodes=["edge-1"], percent=5, mandate=mandate)
    async with serving(control, Planes(), History(), plan), asking(zone.join("operator"), control) as stub:
        before = time.time()
        await stub.InjectFault(fault)
        await stub.SplitTraffic(split)
        now = await stub.ListOverrides(pb.ListOverridesRequest())
        (laid,), (shared,) = now.faults, now.splits
        assert (laid.method, laid.percent, laid.abort, laid.record) == (DECIDE, 30, "UNAVAILABLE", RECORD)
        assert before + 60 <= laid.expires_us / 1e6 <= time.time() + 60
        assert (shared.workload, list(shared.nodes), shared.percent, shared.record) == ("edge", ["edge-1"], 5, RECORD)
        assert (await stub.ClearOverrides(pb.ClearOverridesRequest(of=DECIDE))).ended == 1
        assert not (await stub.ListOverrides(pb.ListOverridesRequest())).faults
        assert (await stub.ClearOverrides(pb.ClearOverridesRequest())).ended == 1
    assert plan.overrides.current == Overrides()


@pytest.mark.parametrize(
    ("wrong", "refusal"),
    [
        ({"method": "/isthmus.orders.v1.Orders/GetOrder"}, NotFound),
        ({"method": "/isthmus.ads.v1.Ads/Nothing"}, NotFound),
        ({"abort": "BROKEN"}, InvalidArgument),
        ({"abort": ""}, InvalidArgument),
        ({"percent": 101}, InvalidArgument),
        ({"mandate": None}, InvalidArgument),
        ({"mandate": pb.Mandate(life_s=3601, record=RECORD)}, InvalidArgument),
        ({"mandate": pb.Mandate(life_s=60)}, InvalidArgument),
    ],
    ids=str,
)
async def test_a_fault_of_another_zone_without_end_or_not_on_record_is_refused(
    tmp_path: Path, wrong: dict[str, Any], refusal: type[MeshError]
) -> None:
    zone = Zone(tmp_path, "public")
    control = zone.join("control-public")
    plan = Plan(tmp_path)
    good = {"method": DECIDE, "percent": 30, "abort": "UNAVAILABLE", "mandate": pb.Mandate(life_s=60, record=RECORD)}
    async with serving(control, Planes(), History(), plan), asking(zone.join("operator"), control) as stub:
        with pytest.raises(refusal):
            await stub.InjectFault(pb.InjectFaultRequest(**{**good, **wrong}))
    assert plan.overrides.current == Overrides()


async def test_a_share_for_a_node_that_is_not_there_is_refused(tmp_path: Path) -> None:
    zone = Zone(tmp_path, "public")
    control = zone.join("control-public")
    mandate = pb.Mandate(life_s=60, record=RECORD)
    request = pb.SplitTrafficRequest(workload="edge", nodes=["edge-1", "edge-9"], percent=5, mandate=mandate)
    async with serving(control, Planes(), History(), Plan(tmp_path)), asking(zone.join("operator"), control) as stub:
        with pytest.raises(NotFound, match="edge-9"):
            await stub.SplitTraffic(request)


async def test_a_share_for_all_nodes_is_refused_for_nobody_would_have_the_rest(tmp_path: Path) -> None:
    zone = Zone(tmp_path, "public")
    control = zone.join("control-public")
    plan = Plan(tmp_path)
    mandate = pb.Mandate(life_s=60, record=RECORD)
    request = pb.SplitTrafficRequest(workload="edge", nodes=["edge-1"], percent=5, mandate=mandate)
    async with serving(control, Planes(), History(), plan), asking(zone.join("operator"), control) as stub:
        with pytest.raises(InvalidArgument, match="SPLIT_OF_ALL"):
            await stub.SplitTraffic(request)
    assert plan.overrides.current == Overrides()


async def test_nobody_but_the_operator_lays_anything_over_the_contract(tmp_path: Path) -> None:
    zone = Zone(tmp_path, "public")
    control = zone.join("control-public")
    plan = Plan(tmp_path)
    mandate = pb.Mandate(life_s=60, record=RECORD)
    async with serving(control, Planes(), History(), plan), asking(zone.join("edge"), control) as stub:
        with pytest.raises(PermissionDenied):
            await stub.InjectFault(pb.InjectFaultRequest(method=DECIDE, percent=1, delay_ms=1, mandate=mandate))
        with pytest.raises(PermissionDenied):
            await stub.ClearOverrides(pb.ClearOverridesRequest())
        with pytest.raises(PermissionDenied):
            await stub.RetryConfiguration(pb.RetryConfigurationRequest(group="grpc", configuration="0" * 12))
    assert plan.retried == []


async def test_the_newest_configuration_alone_is_offered_again_and_only_where_it_was_refused(tmp_path: Path) -> None:
    zone = Zone(tmp_path, "public")
    control = zone.join("control-public")
    plan, history = Plan(tmp_path), History()
    old, new = snapshot(["a"]), snapshot(["a"], mark=1)
    async with serving(control, Planes(), history, plan), asking(zone.join("operator"), control) as stub:

        async def retry(configuration: str) -> None:
            await stub.RetryConfiguration(pb.RetryConfigurationRequest(group="grpc", configuration=configuration))

        with pytest.raises(NotFound):
            await retry(old.configuration)
        history.offered("grpc", old)
        history.rejected("grpc", old.configuration, "edge-1", LISTENER, "v2", "cannot bind")
        history.offered("grpc", new)
        with pytest.raises(FailedPrecondition):
            await retry(old.configuration)
        with pytest.raises(FailedPrecondition):
            await retry(new.configuration)
        history.rejected("grpc", new.configuration, "edge-1", LISTENER, "v3", "cannot bind")
        await retry(new.configuration)
    assert plan.retried == [("grpc", new.configuration)]


async def test_a_control_plane_without_its_own_service_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(UnsafeServerError, match=r"isthmus\.control\.v1\.Control"):
        ServerBuilder(Zone(tmp_path, "public").join("control-public")).build()
