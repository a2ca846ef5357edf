"""What a control plane answers about itself, over the mesh's own transport, and whom it answers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from isthmus.control.v1 import control_pb2 as pb
from isthmus.control.v1 import control_pb2_grpc

from mesh.control.conversation import Ack, Nack
from mesh.control.health import State
from mesh.control.history import Configuration, History
from mesh.control.registry import Endpoint
from mesh.control.service import ControlService
from mesh.control.snapshot import CLUSTER, LISTENER
from mesh.control.status import Planes
from mesh.errors import InvalidArgument, NotFound, PermissionDenied, Unavailable
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
ENDPOINT = Endpoint("edge", "grpc", "edge-1", "public", "127.0.0.1", 20001)


@asynccontextmanager
async def serving(member: Member, planes: Planes, history: History) -> AsyncIterator[None]:
    service = ControlService(planes, history, lambda: [(ENDPOINT, State.HEALTHY)])
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

    async with serving(control, planes, history), asking(here.join("operator"), control) as stub:
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
        request.after = "0" * 12
        with pytest.raises(NotFound, match=r"grpc has no configuration 0+"):
            await stub.CompareConfigurations(request)
        # Not a way to other files.
        request.group = "../kept/grpc"
        with pytest.raises(InvalidArgument):
            await stub.CompareConfigurations(request)

    async with serving(control, planes, history):
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
    async with serving(control, planes, History()), asking(zone.join("operator"), control) as stub:
        request = pb.ListDataPlanesRequest(limit=2)
        while page := (await stub.ListDataPlanes(request)).data_planes:
            nodes.append([each.node for each in page])
            request.after_workload, request.after_node = page[-1].workload, page[-1].node
        with pytest.raises(InvalidArgument):
            await stub.ListDataPlanes(pb.ListDataPlanesRequest(limit=257))
    assert nodes == [["orders-0", "orders-1"], ["orders-2", "orders-3"], ["orders-4"]]


async def test_a_control_plane_without_its_own_service_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(UnsafeServerError, match=r"isthmus\.control\.v1\.Control"):
        ServerBuilder(Zone(tmp_path, "public").join("control-public")).build()
