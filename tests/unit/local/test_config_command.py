"""`isthmus config status` and `history`: what each data plane was told and made of it, and the status for scripts."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.service.status.v3 import csds_pb2
from isthmus.control.v1 import control_pb2_grpc
from typer.testing import Result

from deploy.local.topology import Listen, Process
from mesh import csds
from mesh.control.conversation import Ack, Nack
from mesh.control.history import History
from mesh.control.service import ControlService
from mesh.control.snapshot import CLUSTER, LISTENER
from mesh.control.status import Plane, Planes
from mesh.lastgood import MARK
from mesh.server import MeshServer, ServerBuilder
from tests.ports import free_port
from tests.unit.control.test_control_service import OLD, Plan
from tests.unit.control.test_conversation import snapshot
from tests.unit.local.conftest import control_planes
from tests.unit.local.test_isthmus_command import isthmus
from tests.unit.mesh.conftest import Zone


class World:
    """Two control planes, and one data plane that says by itself what it works with."""

    def __init__(self) -> None:
        self.planes = {zone: Planes() for zone in ("public", "private")}
        self.histories = {zone: History() for zone in ("public", "private")}
        # Of edge-1, by type.
        self.applied: Mapping[str, str] = {}

    def edge(self, *told: Ack | Nack, sent: Mapping[str, str]) -> Plane:
        plane = self.planes["public"].connected("edge", "edge-1", "grpc")
        for kind, version in sent.items():
            plane.sent(kind, version)
        for one in told:
            plane.heard(one)
        return plane


@pytest.fixture
def world() -> World:
    return World()


@asynccontextmanager
async def running(
    home: Path, zones: Mapping[str, Zone], world: World, *others: Process, silent: str = ""
) -> AsyncIterator[None]:
    servers: list[MeshServer | grpc.aio.Server] = []
    ports = {}
    for zone, issuer in zones.items():
        control = issuer.join(f"control-{zone}")
        ports[zone] = int((control.settings.grpc_address or "").rsplit(":", 1)[1])
        if zone != silent:
            service = ControlService(world.planes[zone], world.histories[zone], Plan(home))
            servers.append(ServerBuilder(control).add(control_pb2_grpc.add_ControlServicer_to_server, service).build())
    edge, port = zones["public"].issue("edge"), free_port()
    # Where a launcher lays what it asks the process with.
    (home / "run" / "edge-1").symlink_to(edge.parent.parent)
    plain = grpc.aio.server()
    names = ("key.pem", "svid.pem", "bundle.pem")
    key, leaf, bundle = ((edge / name).read_bytes() for name in names)
    plain.add_secure_port(f"127.0.0.1:{port}", grpc.ssl_server_credentials([(key, leaf)], bundle, True))

    async def fetch(request: bytes, context: Any) -> bytes:
        answer = csds_pb2.ClientStatusResponse()
        found = answer.config.add()
        for kind, version in world.applied.items():
            found.generic_xds_configs.add(type_url=kind, name="edge", version_info=version)
        told: bytes = answer.SerializeToString()
        return told

    handler: Any = grpc.unary_unary_rpc_method_handler(fetch)
    plain.add_registered_method_handlers(csds.SERVICE, {"FetchClientStatus": handler})
    servers.append(plain)
    listens = (Listen("grpc", "127.0.0.1", port, "grpc"),)
    control_planes(home, ports, Process("edge-1", "public", "edge", "edge-1", None, listens), *others)
    for server in servers:
        await server.start()
    try:
        yield
    finally:
        for server in servers:
            await server.stop(0)


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("ISTHMUS_HOME", str(tmp_path))

    async def ask(*arguments: str) -> Result:
        # The command has a loop of its own, and the servers have this one.
        return await asyncio.to_thread(isthmus, *arguments)

    return ask


async def test_what_is_applied_and_what_is_only_acknowledged(
    tmp_path: Path, zones: dict[str, Zone], world: World, ask: Any
) -> None:
    world.edge(Ack(CLUSTER, "c1"), Ack(LISTENER, "l1"), sent={CLUSTER: "c1", LISTENER: "l1"})
    world.applied = {CLUSTER: "c1" + MARK}
    async with running(tmp_path, zones, world):
        done = await ask("config", "status", "--json")
    assert done.exit_code == 0, done.stderr
    rows = {row["type"]: row for row in json.loads(done.stdout)}
    assert (rows["CDS"]["state"], rows["CDS"]["applied"]) == ("applied", ["c1"])
    assert (rows["LDS"]["state"], rows["LDS"]["applied"]) == ("acknowledged", [])
    assert (rows["CDS"]["node"], rows["CDS"]["group"], rows["CDS"]["health"]) == ("edge-1", "grpc", "healthy")
    assert (rows["LDS"]["sent"], rows["LDS"]["acknowledged"]) == ("l1", "l1")


async def test_what_was_refused_is_shown_with_its_reason_and_fails(
    tmp_path: Path, zones: dict[str, Zone], world: World, ask: Any
) -> None:
    world.edge(Ack(CLUSTER, "c1"), Nack(CLUSTER, "c2", "no such policy"), sent={CLUSTER: "c2"})
    world.applied = {CLUSTER: "c1"}
    async with running(tmp_path, zones, world):
        done, shown = await ask("config", "status", "--json"), await ask("config", "status")
    assert (done.exit_code, shown.exit_code) == (1, 1)
    (row,) = json.loads(done.stdout)
    assert (row["state"], row["reason"]) == ("rejected", "no such policy")
    assert (row["sent"], row["acknowledged"], row["rejected"], row["applied"]) == ("c2", "c1", "c2", ["c1"])
    assert "rejected: no such policy" in shown.stdout


async def test_a_refusal_that_was_taken_back_is_past(
    tmp_path: Path, zones: dict[str, Zone], world: World, ask: Any
) -> None:
    plane = world.edge(Nack(CLUSTER, "c2", "no such policy"), sent={CLUSTER: "c2"})
    plane.sent(CLUSTER, "c1")
    plane.heard(Ack(CLUSTER, "c1"))
    world.applied = {CLUSTER: "c1"}
    async with running(tmp_path, zones, world):
        done = await ask("config", "status", "--json")
    assert done.exit_code == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert (row["state"], row["reason"]) == ("applied", "")


async def test_who_is_behind_fails_and_who_has_gone_does_not(
    tmp_path: Path, zones: dict[str, Zone], world: World, ask: Any
) -> None:
    plane = world.edge(Ack(CLUSTER, "c1"), sent={CLUSTER: "c2"})
    async with running(tmp_path, zones, world):
        behind = await ask("config", "status", "--json")
        plane.gone()
        gone = await ask("config", "status", "--json")
    assert [row["state"] for row in json.loads(behind.stdout)] == ["behind"]
    assert behind.exit_code == 1
    assert [row["state"] for row in json.loads(gone.stdout)] == ["gone"]
    assert gone.exit_code == 0, gone.stderr


async def test_a_control_plane_that_is_silent_is_named_and_fails(
    tmp_path: Path, zones: dict[str, Zone], world: World, ask: Any
) -> None:
    world.edge(Ack(CLUSTER, "c1"), sent={CLUSTER: "c1"})
    world.histories["public"].offered("grpc", snapshot(["a"]), OLD)
    async with running(tmp_path, zones, world, silent="private"):
        status, history = await ask("config", "status", "--json"), await ask("config", "history", "--json")
    # What the other one says is there all the same.
    assert [row["state"] for row in json.loads(status.stdout)] == ["acknowledged"]
    assert [row["fate"] for row in json.loads(history.stdout)] == ["offered"]
    for done in (status, history):
        assert done.exit_code == 1
        assert "control-private does not answer" in done.stderr
