"""What operators are told of each data plane."""

import asyncio
import json
from pathlib import Path

from mesh.control.conversation import Ack, Nack
from mesh.control.history import History
from mesh.control.snapshot import CLUSTER, LISTENER
from mesh.control.status import REASON_CHARACTERS_MAX, Planes, Reporter


def test_a_data_plane_is_known_by_what_it_was_sent_and_said() -> None:
    planes = Planes(now=lambda: 1.0)
    plane = planes.connected("orders", "orders-1", "grpc")
    plane.sent(CLUSTER, "v1")
    plane.heard(Ack(CLUSTER, "v1"))
    plane.sent(LISTENER, "v2")
    plane.heard(Nack(LISTENER, "v2", "x" * 9999))
    (row,) = planes.rows()
    assert row["types"][CLUSTER] == {"sent": "v1", "acknowledged": "v1", "rejected": "", "reason": ""}
    assert row["types"][LISTENER]["rejected"] == "v2"
    assert len(row["types"][LISTENER]["reason"]) == REASON_CHARACTERS_MAX


def test_the_longest_known_are_forgotten_first() -> None:
    planes = Planes()
    for number in range(3000):
        planes.connected("orders", f"orders-{number}", "grpc")
    nodes = {row["node"] for row in planes.rows()}
    assert len(nodes) == 2048
    assert "orders-2999" in nodes
    assert "orders-0" not in nodes


async def test_the_report_is_written_whole_and_says_when(tmp_path: Path) -> None:
    planes = Planes()
    planes.connected("orders", "orders-1", "grpc")
    path = tmp_path / "run" / "status.json"
    reporter = Reporter(path, "private", planes, History(), lambda: {"orders-1": "healthy"})
    await reporter.start()
    async with asyncio.timeout(10):
        while not path.exists():  # noqa: ASYNC110 (a file has no event)
            await asyncio.sleep(0.01)
    await reporter.stop(1)
    report = json.loads(path.read_text())
    assert report["written"] > 0
    assert report["endpoints"] == {"orders-1": "healthy"}
    assert [plane["node"] for plane in report["planes"]] == ["orders-1"]
