"""The bridge's processes and the warehouse start from the launcher's table as they are, and the command shows them."""

import asyncio
import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

from deploy.local.mesh import LocalMesh
from security.identity import wallet
from security.identity.authority import Authority
from security.identity.bundle import bundle
from tests.integration.bridge import events
from tests.integration.bridge.cluster import Cluster
from tests.integration.conftest import free_port_base

DEADLINE_S = 30.0


def isthmus(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "isthmus"), *arguments]
    environment = os.environ | {"ISTHMUS_HOME": str(home)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)


def send(mesh: LocalMesh, home: Path) -> None:
    """Two clicks, one of them twice, and a record that is none, as an edge node."""
    authority = Authority.open_or_create(home / "ca" / "public", "isthmus.internal", "public")
    roots = bundle(home, "edge", "public")
    assert roots is not None
    directory = home / "run" / "client-edge" / "identity"
    wallet.write(directory, wallet.Wallet(authority.issue("edge", timedelta(hours=1)), roots))
    producer = Cluster(mesh.kafka_bootstrap, {"edge": directory / wallet.LIVE}, directory).producer()
    events.send(producer, [events.click(1), events.click(2), events.click(1)])
    producer.produce(events.topic_of(events.click(1)), b"\xff", "key", headers=events.headers(events.click(3)))
    assert producer.flush(30) == 0


async def test_what_landed_is_shown(tmp_path: Path) -> None:
    only = ("warehouse", "bridge-inbound", "bridge-outbound")
    async with LocalMesh(tmp_path, free_port_base(), only=only) as mesh:
        await asyncio.to_thread(send, mesh, tmp_path)
        async with asyncio.timeout(DEADLINE_S):
            while True:
                done = await asyncio.to_thread(isthmus, tmp_path, "bridge", "status", "--json")
                assert done.returncode == 0, done.stderr
                found = json.loads(done.stdout)
                sums = {
                    name: sum(each[name] for each in found["partitions"])
                    for name in ("landed", "duplicates", "dead_letters")
                }
                if sum(sums.values()) == 4:
                    break
        assert sums == {"landed": 2, "duplicates": 1, "dead_letters": 1}
        assert (found["doubled_rows"], found["clicks"]) == (0, 2)
        table = await asyncio.to_thread(isthmus, tmp_path, "bridge", "status")
        assert "isthmus.click.v1" in table.stdout
    stopped = await asyncio.to_thread(isthmus, tmp_path, "bridge", "status")
    assert stopped.returncode == 1
    assert "Traceback" not in stopped.stderr
