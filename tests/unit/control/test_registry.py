"""Which endpoints a control plane may know."""

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from mesh.control.notice import changes
from mesh.control.registry import Registry, TopologyError, asked, read
from mesh.files import PUBLIC_MODE, write_file


def row(name: str, zone: str, workload: str, port: int = 20000, listen: str = "grpc") -> dict[str, Any]:
    return {
        "name": name,
        "node": name,
        "zone": zone,
        "workload": workload,
        "pid": 1,
        "listens": [{"name": listen, "address": "127.0.0.1", "port": port, "protocol": "grpc"}],
    }


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"trust_domain": "isthmus.internal", "processes": list(rows)}))
    return path


ROWS = (
    row("edge-1", "public", "edge"),
    row("orders-1", "private", "orders"),
    row("core-gateway", "private", "core-gateway"),
)


def test_the_public_zone_knows_one_private_address(tmp_path: Path) -> None:
    known = read(write(tmp_path / "topology.json", *ROWS), "public")
    assert [each.workload for each in known if each.zone == "private"] == ["core-gateway"]


def test_the_private_zone_knows_no_public_address(tmp_path: Path) -> None:
    known = read(write(tmp_path / "topology.json", *ROWS), "private")
    assert {each.zone for each in known} == {"private"}


def test_each_node_is_asked_at_one_port(tmp_path: Path) -> None:
    listens = {
        "edge-1": {"http": "https", "grpc": "grpc", "metrics": "https"},
        "edge-gateway": {"https": "https", "metrics": "https"},
        "witness": {"http": "https", "metrics": "https"},
        "control-public": {"ads": "grpc", "metrics": "https"},
        "identity-public": {"metrics": "https"},
        "kafka": {"kafka": "kafka", "raft": "kafka"},
        "links": {"kafka": "tcp", "core": "tcp"},
    }
    rows = [
        row(name, "public", name)
        | {
            "listens": [
                {"name": listen, "address": "127.0.0.1", "port": 20000 + number, "protocol": protocol}
                for number, (listen, protocol) in enumerate(ports.items())
            ]
        }
        for name, ports in listens.items()
    ]
    known = read(write(tmp_path / "topology.json", *rows, row("orders-1", "private", "orders")), "public")
    assert [(each.node, each.listen, each.protocol) for each in asked(known, "public")] == [
        ("control-public", "metrics", "https"),
        ("edge-1", "grpc", "grpc"),
        ("edge-gateway", "metrics", "https"),
        ("identity-public", "metrics", "https"),
        ("kafka", "kafka", "kafka"),
        ("witness", "http", "https"),
    ]


def test_a_new_table_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "topology.json", ROWS[0])
    registry = Registry(path, "public", 1.0)
    assert not registry.refresh()
    write(path, ROWS[0], row("edge-2", "public", "edge", 20001))
    assert registry.refresh()
    assert len(registry.endpoints) == 2


async def test_the_kernel_tells_of_a_table_that_is_put_in_place(tmp_path: Path) -> None:
    path = write(tmp_path / "topology.json", ROWS[0])
    # Between two looks of its own it would be too late.
    registry, told = Registry(path, "public", 600.0), asyncio.Event()
    watching = asyncio.create_task(registry.watch(told.set))
    async with asyncio.timeout(60):
        for number in range(2, 5):
            new = tmp_path / f"table-{number}"
            write(new, ROWS[0], row(f"edge-{number}", "public", "edge", 20000 + number))
            write_file(path, new.read_bytes(), PUBLIC_MODE)
            await told.wait()
            told.clear()
            assert {each.node for each in registry.endpoints} == {"edge-1", f"edge-{number}"}
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_a_mesh_starts_when_its_table_comes(tmp_path: Path) -> None:
    waiting = asyncio.create_task(Registry.wait(tmp_path / "topology.json", "public", 600.0))
    await asyncio.sleep(0)
    write(tmp_path / "topology.json", ROWS[0])
    async with asyncio.timeout(60):
        assert len((await waiting).endpoints) == 1


async def test_a_table_that_does_not_come_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="did not come"):
        await Registry.wait(tmp_path / "topology.json", "public", 600.0, timeout_s=0.05)


async def test_where_nobody_tells_it_looks(tmp_path: Path) -> None:
    async with asyncio.timeout(60), contextlib.aclosing(changes(tmp_path / "not there", 0.01)) as looks:
        for _ in range(3):
            await anext(looks)


def test_a_new_pid_is_no_news(tmp_path: Path) -> None:
    path = write(tmp_path / "topology.json", ROWS[0])
    registry = Registry(path, "public", 1.0)
    write(path, {**ROWS[0], "pid": 23456})
    assert not registry.refresh()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"processes": [{}]}', b'{"processes": 1}', b"\xff"])
def test_a_table_that_cannot_be_read_leaves_the_last_good_one(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path / "topology.json", ROWS[0])
    registry = Registry(path, "public", 1.0)
    path.write_bytes(content)
    assert not registry.refresh()
    assert len(registry.endpoints) == 1
    with pytest.raises(TopologyError):
        read(path, "public")
