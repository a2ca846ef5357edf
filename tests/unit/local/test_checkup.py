"""The lines of `isthmus check`, each with what it is there to find; those that need a whole mesh are in tests/e2e."""

import asyncio
import json
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from email.utils import formatdate
from pathlib import Path

import pytest

from deploy.local import checkup, events, preflight, processes
from deploy.local.checkup import LEAF_S_MIN, SKEW_S_MAX, Finding
from deploy.local.health import tls_context
from deploy.local.settings import Home
from deploy.local.topology import Listen, Process
from mesh.control.conversation import Ack
from mesh.control.snapshot import CLUSTER
from security.identity.authority import ROOT_LIFE
from tests.ports import free_port_base
from tests.unit.control.test_control_service import NEW, OLD
from tests.unit.control.test_conversation import snapshot
from tests.unit.local.conftest import control_planes
from tests.unit.local.test_config_command import World, running
from tests.unit.local.test_isthmus_command import isthmus
from tests.unit.mesh.conftest import Zone

Zones = dict[str, Zone]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISTHMUS_HOME", str(tmp_path))
    monkeypatch.setenv("ISTHMUS_PORT_BASE", str(free_port_base()))
    # Nobody asks for Java or Kafka then.
    monkeypatch.setenv("ISTHMUS_KAFKA_BOOTSTRAP", "127.0.0.1:1")


@pytest.fixture
def alive(tmp_path: Path) -> Iterator[int]:
    """Something of this home that lives."""
    sleeper = subprocess.Popen(("sleep", "600"), env={"ISTHMUS_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"})
    yield sleeper.pid
    sleeper.kill()
    sleeper.wait()


def lives(home: Path, name: str, pid: int) -> None:
    Home(home).run(name).mkdir(parents=True, exist_ok=True)
    processes.write_pid(Home(home).pid_file(name), pid)


def edge(zones: Zones, home: Path, *listens: Listen, ttl: timedelta = timedelta(hours=1)) -> Process:
    """edge-1 of a mesh that is nothing else, with an identity."""
    issued = zones["public"].issue("edge", ttl)
    Home(home).run("edge-1").symlink_to(issued.parent.parent)
    one = Process("edge-1", "public", "edge", "edge-1", None, listens)
    control_planes(home, {}, one)
    return one


@asynccontextmanager
async def answering(
    zones: Zones, oldest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, away_s: float = 0.0
) -> AsyncIterator[Listen]:
    """A metrics port with a certificate of the public zone, whose owner's clock is so far away."""
    identity = zones["public"].issue("server")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(identity / "bundle.pem"))
    context.minimum_version, context.verify_mode = oldest, ssl.CERT_REQUIRED
    context.load_cert_chain(identity / "svid.pem", identity / "key.pem")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(1):
            date = formatdate(time.time() + away_s, usegmt=True)
            writer.write(f"HTTP/1.1 200 OK\r\ndate: {date}\r\ncontent-length: 0\r\n\r\n".encode())
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
        yield Listen("metrics", "127.0.0.1", server.sockets[0].getsockname()[1], "https")


async def finding(name: str) -> Finding:
    # In a loop and a thread of its own, as the command has it: what is asked answers in this one.
    return await asyncio.to_thread(asyncio.run, checkup.finding(name))


def test_without_a_mesh_the_command_says_what_it_found_in_order(tmp_path: Path) -> None:
    done = isthmus("check", "--json")
    assert [(row["name"], row["result"]) for row in json.loads(done.stdout)] == [
        ("java", "pass"),
        ("ports", "pass"),
        ("orphans", "pass"),
        ("mesh", "warn"),
    ]
    # A warning is no failure.
    assert done.exit_code == 0
    shown = isthmus("check")
    assert "Start one: make run" in shown.stdout


def test_a_taken_port_fails_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = json.loads(isthmus("config", "dump", "--json").stdout)
    address, _, port = next(iter(rows[-1]["ports"].values())).rpartition(":")
    with socket.create_server((address, int(port))):
        done, shown = isthmus("check", "--json"), isthmus("check")
    assert (done.exit_code, shown.exit_code) == (1, 1)
    (failed,) = [row for row in json.loads(done.stdout) if row["result"] == "fail"]
    assert failed["name"] == "ports"
    assert f"Port {port}" in failed["detail"]
    assert "ISTHMUS_PORT_BASE" in failed["remedy"]


def test_what_a_killed_launcher_left_is_an_orphan_and_what_a_launcher_has_is_none(tmp_path: Path, alive: int) -> None:
    lives(tmp_path, "edge-1", alive)

    def orphans() -> Finding:
        return next(each for each in asyncio.run(checkup.all_findings()) if each.name == "orphans")

    left = orphans()
    assert (left.result, left.detail) == ("fail", f"without a launcher: edge-1 (pid {alive})")
    assert "start the mesh again" in left.remedy
    with preflight.open_home(Home(tmp_path)):
        assert orphans().result == "pass"


async def test_a_database_whose_clock_is_off_is_found(
    tmp_path: Path, zones: Zones, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge(zones, tmp_path)
    away_s = 0.0

    async def database_clock(url: str) -> float:
        return time.time() + away_s

    monkeypatch.setattr(events, "database_clock", database_clock)
    assert (await finding("clock")).result == "pass"
    away_s = -SKEW_S_MAX - 60
    found = await finding("clock")
    assert found.result == "fail"
    assert "the database's clock is 62" in found.detail


async def test_a_process_whose_clock_is_off_is_named(
    tmp_path: Path, zones: Zones, alive: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def database_clock(url: str) -> float:
        return time.time()

    monkeypatch.setattr(events, "database_clock", database_clock)
    async with answering(zones, away_s=3600) as listen:
        edge(zones, tmp_path, listen)
        lives(tmp_path, "edge-1", alive)
        found = await finding("clock")
    assert found.result == "fail"
    assert "edge-1 by 3" in found.detail


async def test_a_leaf_that_has_missed_its_rotation_is_named(tmp_path: Path, zones: Zones) -> None:
    edge(zones, tmp_path, ttl=timedelta(seconds=LEAF_S_MIN + 600))
    assert (await finding("certificates")).result == "pass"
    zones["public"].issue("edge", timedelta(seconds=LEAF_S_MIN - 60))
    found = await finding("certificates")
    assert found.result == "fail"
    assert "the leaf of edge-1 ends in" in found.detail
    assert "identity agent" in found.remedy


async def test_who_does_not_trust_the_root_of_his_zone_is_named(tmp_path: Path, zones: Zones) -> None:
    edge(zones, tmp_path)
    assert (await finding("trust bundles")).result == "pass"
    bundle = Home(tmp_path).identity("edge-1") / "bundle.pem"
    bundle.write_bytes((tmp_path / "ca" / "private" / "root.pem").read_bytes())
    found = await finding("trust bundles")
    assert (found.result, found.detail) == ("fail", "the root of their own zone is not trusted by edge-1")


async def test_a_root_that_ends_soon_is_a_warning(
    tmp_path: Path, zones: Zones, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge(zones, tmp_path)
    monkeypatch.setattr(checkup, "ROOT_S_MIN", ROOT_LIFE.total_seconds() + 1)
    found = await finding("trust bundles")
    assert found.result == "warn"
    assert "the root of the public zone ends in 36" in found.detail


async def test_a_port_that_speaks_tls_1_2_fails(tmp_path: Path, zones: Zones, alive: int) -> None:
    async with answering(zones) as new, answering(zones, ssl.TLSVersion.TLSv1_2) as old:
        edge(zones, tmp_path, new)
        lives(tmp_path, "edge-1", alive)
        # One that is really there, and refuses nothing but the version.
        context = tls_context(Home(tmp_path).identity("edge-1"))
        _, writer = await asyncio.open_connection(new.address, new.port, ssl=context, server_hostname="localhost")
        writer.close()
        await writer.wait_closed()
        assert (await finding("tls")).result == "pass"
        control_planes(tmp_path, {}, Process("edge-1", "public", "edge", "edge-1", None, (new, old)))
        found = await finding("tls")
    assert (found.result, found.detail) == ("fail", f"TLS 1.2 is accepted by edge-1 {old.port}")
    assert "stop its process" in found.remedy


async def test_a_port_with_a_foreign_certificate_accepts_tls_1_2_all_the_same(
    tmp_path: Path, zones: Zones, alive: int
) -> None:
    async with answering({"public": zones["private"]}, ssl.TLSVersion.TLSv1_2) as foreign:
        edge(zones, tmp_path, foreign)
        lives(tmp_path, "edge-1", alive)
        found = await finding("tls")
    assert (found.result, found.detail) == ("fail", f"TLS 1.2 is accepted by edge-1 {foreign.port}")


async def test_a_port_that_nobody_answers_at_has_not_refused_tls_1_2(
    tmp_path: Path, zones: Zones, alive: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkup, "HANDSHAKE_DEADLINE_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as frozen, socket.create_server(("127.0.0.1", 0)) as closed:
        ports = frozen.getsockname()[1], closed.getsockname()[1]
        closed.close()
        edge(zones, tmp_path, *(Listen("grpc", "127.0.0.1", port, "grpc") for port in ports))
        lives(tmp_path, "edge-1", alive)
        found = await finding("tls")
    assert found.result == "fail"
    assert f"edge-1 {ports[0]} (TimeoutError), edge-1 {ports[1]} (ConnectionRefusedError)" in found.detail


async def test_a_port_that_speaks_in_the_clear_has_not_refused_tls_1_2(
    tmp_path: Path, zones: Zones, alive: int
) -> None:
    async def in_the_clear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(in_the_clear, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        edge(zones, tmp_path, Listen("http", "127.0.0.1", port, "https"))
        lives(tmp_path, "edge-1", alive)
        found = await finding("tls")
    assert (found.result, found.detail) == ("fail", f"no TLS is spoken by edge-1 {port}")


async def test_a_configuration_that_was_refused_or_withheld_fails_with_its_reason(tmp_path: Path, zones: Zones) -> None:
    world = World()
    history, old, new = world.histories["public"], snapshot(["a"]), snapshot(["a"], mark=1)
    history.offered("grpc", old, OLD)
    history.accepted("grpc", old)
    async with running(tmp_path, zones, world):
        assert (await finding("configuration")).result == "pass"
        history.offered("grpc", new, NEW)
        history.rejected("grpc", new.configuration, "edge-1", CLUSTER, "v2", "no such policy")
        refused = await finding("configuration")
        history.withheld("grpc", "trial", "refers to nothing")
        withheld = await finding("configuration")
    assert refused.result == withheld.result == "fail"
    assert refused.detail == f"grpc: {new.configuration} is rejected: no such policy"
    assert withheld.detail == "grpc: trial is withheld: refers to nothing"
    assert "isthmus config history" in refused.remedy


async def test_who_has_not_acknowledged_yet_is_a_warning(tmp_path: Path, zones: Zones) -> None:
    world = World()
    plane = world.edge(Ack(CLUSTER, "c1"), sent={CLUSTER: "c2"})
    async with running(tmp_path, zones, world):
        behind = await finding("configuration")
        plane.heard(Ack(CLUSTER, "c2"))
        assert (await finding("configuration")).result == "pass"
    assert (behind.result, behind.detail) == ("warn", "not acknowledged yet by edge-1 (CDS)")


async def test_a_gateway_without_its_control_plane_is_named(tmp_path: Path, zones: Zones, alive: int) -> None:
    world = World()
    lives(tmp_path, "edge-gateway", alive)
    async with running(tmp_path, zones, world, Process("edge-gateway", "public", "edge-gateway", "edge-gateway")):
        alone = await finding("data planes")
        world.planes["public"].connected("edge-gateway", "edge-gateway", "edge-gateway")
        assert (await finding("data planes")).result == "pass"
    assert (alone.result, alone.detail) == ("fail", "not connected to their control plane: edge-gateway")


async def test_a_warehouse_that_is_far_behind_is_a_warning(
    tmp_path: Path, zones: Zones, monkeypatch: pytest.MonkeyPatch
) -> None:
    control_planes(tmp_path, {}, Process("kafka", "public", "kafka", "kafka"))
    waiting = events.LAG_MAX

    async def lag(identity: Path, bootstrap: str, url: str) -> int:
        return waiting

    monkeypatch.setattr(events, "lag", lag)
    assert (await finding("lag")).result == "pass"
    waiting += 1
    found = await finding("lag")
    assert (found.result, found.detail) == ("warn", f"{events.LAG_MAX + 1} events wait for the warehouse")
    assert "isthmus bridge status" in found.remedy
