"""The rooms start from the launcher's table as they are, and the command shows what they recorded."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from isthmus.members.v1 import members_pb2 as pb
from isthmus.members.v1.members_pb2_grpc import MembersStub

from deploy.local import postgres
from deploy.local.mesh import LocalMesh
from deploy.local.topology import read
from mesh.channel import Channels
from mesh.contract import load
from mesh.errors import PermissionDenied
from mesh.spiffe import SpiffeId
from mesh.tls import Identity
from security.audit.checkpoint import CHECKPOINT_FILE, VERIFIER_KEY, CheckpointFile
from security.audit.cosignature import WITNESS_FILE
from tests.integration.conftest import free_port_base
from tests.integration.room import plain

DEADLINE_S = 10.0


def isthmus(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "isthmus"), *arguments]
    environment = os.environ | {"ISTHMUS_HOME": str(home)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)


async def until_signed(home: Path) -> None:
    """Wait for the first signed checkpoint, and for the first that the witness has seen."""
    async with asyncio.timeout(DEADLINE_S):
        while not (CheckpointFile(home / CHECKPOINT_FILE).notes() and (home / WITNESS_FILE).exists()):  # noqa: ASYNC110 - a file rings no bell
            await asyncio.sleep(0.1)


async def erase(home: Path, mesh: LocalMesh) -> None:
    """Rotate the keys, erase a member; the proof stands by itself."""
    rotated = await asyncio.to_thread(isthmus, home, "keys", "rotate", "--json")
    assert rotated.returncode == 0, rotated.stderr
    assert json.loads(rotated.stdout)["finished"]
    with psycopg.connect(plain(postgres.url(mesh.home))) as connection:
        connection.execute(
            "INSERT INTO members.member SELECT 'gone', sha256('x'), 'x', 'x', 'x', now()",
        )
    proof = home / "erased.jsonl"
    shred = ("keys", "shred", "gone", "--yes", "--proof", str(proof), "--json")
    done = await asyncio.to_thread(isthmus, home, *shred)
    assert done.returncode == 0, done.stderr
    lines = proof.read_text().splitlines()
    assert '"EraseMember"' in lines[0]
    assert '"gone"' in lines[0]
    offline = ("audit", "verify", "--export", str(proof), "--key", str(home / VERIFIER_KEY))
    assert (await asyncio.to_thread(isthmus, home / "elsewhere", *offline)).returncode == 0
    proof.write_text(proof.read_text().replace('"gone"', '"else"'))
    assert (await asyncio.to_thread(isthmus, home / "elsewhere", *offline)).returncode == 1


async def test_a_refused_call_to_a_running_room_is_shown(tmp_path: Path) -> None:
    async with LocalMesh(tmp_path, free_port_base(), only=("members", "catalog", "witness", "audit")) as mesh:
        listen = read(mesh.home.topology).process("members-1").listen("grpc")
        channels = Channels(Identity(mesh.operator_identity), load())
        members = MembersStub(channels.direct(str(listen), SpiffeId("private", "members")))
        assert (await members.CountMembers(pb.CountMembersRequest())).members == 0
        with pytest.raises(PermissionDenied, match="CALLER_NOT_ALLOWED"):
            await members.GetMember(pb.GetMemberRequest(member_id="member-1"))
        await channels.close()

        shown: list[dict[str, Any]] = []
        async with asyncio.timeout(DEADLINE_S):
            while len(shown) < 2:
                done = await asyncio.to_thread(isthmus, tmp_path, "audit", "list", "--json", "--limit", "2")
                assert done.returncode == 0, done.stderr
                shown = json.loads(done.stdout)
        assert {(one["method"].rsplit("/", 1)[1], one["decision"], one["result"]) for one in shown} == {
            ("CountMembers", "allowed", "OK"),
            ("GetMember", "denied", "PERMISSION_DENIED"),
        }
        table = await asyncio.to_thread(isthmus, tmp_path, "audit", "tail", "--denied")
        assert "CALLER_NOT_ALLOWED" in table.stdout
        assert "member-1" in table.stdout

        found = await asyncio.to_thread(isthmus, tmp_path, "audit", "search", "--about", "member-1", "--json")
        assert [one["decision"] for one in json.loads(found.stdout)] == ["denied"]
        none = await asyncio.to_thread(isthmus, tmp_path, "audit", "search", "--peer", "orders", "--json")
        assert json.loads(none.stdout) == []

        await until_signed(tmp_path)
        export = tmp_path / "export.jsonl"
        done = await asyncio.to_thread(isthmus, tmp_path, "audit", "export", "--output", str(export))
        assert done.returncode == 0, done.stderr
        await erase(tmp_path, mesh)
        said = await asyncio.to_thread(isthmus, tmp_path, "audit", "report", "--json")
        rights = {(one["workload"], one["method"]): one for one in json.loads(said.stdout)["rights"]}
        assert rights["operator", "/isthmus.members.v1.Members/GetMember"]["denied"] == 1
        messages = tmp_path / "messages.txt"
        done = await asyncio.to_thread(
            isthmus, tmp_path, "audit", "export", "--format", "syslog", "--output", str(messages)
        )
        assert done.returncode == 0, done.stderr
        assert all(line.startswith("<1") and "[isthmus@32473 " in line for line in messages.read_text().splitlines())
        verified = await asyncio.to_thread(isthmus, tmp_path, "audit", "verify", "--json")
        assert verified.returncode == 0, verified.stdout
        assert json.loads(verified.stdout)["ok"]
        assert json.loads(verified.stdout)["witnessed"]["size"] > 0
    stopped = await asyncio.to_thread(isthmus, tmp_path, "audit", "tail")
    assert stopped.returncode == 1
    assert "Traceback" not in stopped.stderr

    # Elsewhere, later: nothing is left but the file and the public key.
    key = tmp_path / VERIFIER_KEY
    offline = ("audit", "verify", "--export", str(export), "--key", str(key))
    assert (await asyncio.to_thread(isthmus, tmp_path / "elsewhere", *offline)).returncode == 0
    export.write_text(export.read_text().replace('"member-1"', '"member-2"'))
    altered = await asyncio.to_thread(isthmus, tmp_path / "elsewhere", *offline, "--json")
    assert altered.returncode == 1
    assert {finding["kind"] for finding in json.loads(altered.stdout)["findings"]} == {"altered"}
