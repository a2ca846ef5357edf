"""The bridge's processes and the warehouse start from the launcher's table as they are, and the command shows them."""

import asyncio
import base64
import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg

from deploy.local.mesh import LocalMesh
from security.identity import wallet
from security.identity.authority import Authority
from security.identity.bundle import bundle
from sync_bridge.kafka import libpq_url
from tests.integration.bridge import events
from tests.integration.bridge.cluster import Cluster
from tests.ports import free_port_base

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


def answer(home: Path, *arguments: str, status: int = 0) -> Any:
    done = isthmus(home, "bridge", *arguments, "--json")
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout)


def operate(home: Path) -> None:
    """What an operator does with the record that is no event, and with the flow."""
    (letter,) = answer(home, "dlq", "list")
    assert (letter["cause"], letter["origin"], letter["attempts"]) == ("UNREADABLE", "edge-1", 1)
    shown = answer(home, "dlq", "show", str(letter["id"]))
    assert base64.b64decode(shown["payload_base64"]) == b"\xff"
    assert answer(home, "dlq", "replay", "--all", status=1)["failed"] == 1
    (again,) = answer(home, "dlq", "list", "--topic", letter["topic"])
    assert again["attempts"] == 2
    assert answer(home, "dlq", "drop", str(letter["id"]), "--reason", "sent by hand") == {"dropped": 1}
    assert answer(home, "dlq", "list") == []
    (dropped,) = answer(home, "dlq", "list", "--state", "dropped")
    assert dropped["reason"] == "sent by hand"
    assert answer(home, "dlq", "show", str(letter["id"]))["payload_base64"] is None
    nothing = isthmus(home, "bridge", "dlq", "drop", "--reason", "nothing named")
    assert (nothing.returncode, nothing.stdout) == (2, "")

    books = answer(home, "audit", "--wait", "0")
    assert books["balanced"], books["findings"]
    assert (books["totals"]["landed"], books["totals"]["rows"], books["totals"]["dead_letters"]) == (2, 2, 1)

    assert answer(home, "pause")["paused"]
    assert answer(home, "rate-limit", "1000") == {"paused": True, "records_per_s_max": 1000, "waiting": 0}
    assert not answer(home, "resume")["paused"]
    assert answer(home, "drain", "--within", "20")["waiting"] == 0

    same = answer(home, "partitions", letter["topic"], "4")
    assert (same["before"], same["partitions"], same["read"]) == (4, 4, 4)
    fewer = isthmus(home, "bridge", "partitions", letter["topic"], "2")
    assert "only adds partitions" in fewer.stderr.replace("\n", " ")

    again = answer(home, "backfill", letter["topic"], "--shadow", "--from", "2020-01-01T00:00:00")
    assert (again["read"], again["landed"], again["duplicates"], again["refused"]) == (4, 2, 1, 1)
    assert answer(home, "shadow", letter["topic"], "--drop") == {"rows": 2, "missing": 0, "different": 0}


def audited(mesh: LocalMesh) -> set[str]:
    """Methods of the bridge of which the audit log holds a record, by their last name."""
    with psycopg.connect(libpq_url(mesh.database_url), autocommit=True) as connection:
        rows = connection.execute("SELECT DISTINCT method FROM audit.record WHERE method LIKE '/isthmus.bridge.%'")
        return {method.rpartition("/")[2] for (method,) in rows}


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
        await asyncio.to_thread(operate, tmp_path)
        assert await asyncio.to_thread(audited, mesh) >= {
            "DropDeadLetters",
            "ReplayDeadLetters",
            "SetFlow",
            "LandAgain",
        }
    stopped = await asyncio.to_thread(isthmus, tmp_path, "bridge", "status")
    assert stopped.returncode == 16
    assert "Traceback" not in stopped.stderr
