"""Which endpoints a control plane may know."""

import json
from pathlib import Path
from typing import Any

import pytest

from mesh.control.registry import Registry, TopologyError, read


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


def test_a_new_table_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "topology.json", ROWS[0])
    registry = Registry(path, "public", 1.0)
    assert not registry.refresh()
    write(path, ROWS[0], row("edge-2", "public", "edge", 20001))
    assert registry.refresh()
    assert len(registry.endpoints) == 2


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
