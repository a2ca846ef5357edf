"""The rooms start from the launcher's table as they are, and the command shows what they recorded."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from isthmus.members.v1 import members_pb2 as pb
from isthmus.members.v1.members_pb2_grpc import MembersStub

from deploy.local import postgres
from deploy.local.errors import NotRunning
from deploy.local.mesh import LocalMesh
from deploy.local.settings import REPOSITORY, LauncherSettings
from deploy.local.topology import read
from mesh.channel import Channels
from mesh.contract import load
from mesh.contract.model import DataClass
from mesh.database.engine import async_engine
from mesh.errors import PermissionDenied
from mesh.spiffe import SpiffeId
from mesh.tls import Identity
from private_core.storage.expiry import Expiry
from security.audit.checkpoint import CHECKPOINT_FILE, SIGNING_KEY, VERIFIER_KEY, CheckpointFile
from security.audit.cosignature import WITNESS_FILE
from security.audit.note import Signer
from security.audit.retention import LogRetention
from tests.integration.audit.kept_log import ORIGIN
from tests.integration.removing import remover
from tests.integration.room import own, plain
from tests.ports import free_port_base

DEADLINE_S = 10.0
COMMAND_S = 30.0


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


class Terminal:
    """Where the commands are typed."""

    def __init__(self, home: Path) -> None:
        environment = os.environ | {"ISTHMUS_HOME": str(home), "COLUMNS": "200"}
        command = (sys.executable, "-m", "tests.integration.audit.terminal")
        self._process = subprocess.Popen(
            command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY
        )

    async def isthmus(self, *words: str) -> Done:
        return await asyncio.wait_for(asyncio.to_thread(self._typed, words), COMMAND_S)

    def _typed(self, words: tuple[str, ...]) -> Done:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        return Done(*json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path)
    yield terminal
    terminal.close()


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Terminal]:
    """Where nothing of the mesh is but what is carried there."""
    terminal = Terminal(tmp_path / "elsewhere")
    yield terminal
    terminal.close()


async def until_signed(home: Path) -> None:
    """Wait for the first signed checkpoint, and for the first that the witness has seen."""
    async with asyncio.timeout(DEADLINE_S):
        while not (CheckpointFile(home / CHECKPOINT_FILE).notes() and (home / WITNESS_FILE).exists()):  # noqa: ASYNC110 - a file rings no bell
            await asyncio.sleep(0.1)


async def erase(terminal: Terminal, elsewhere: Terminal, home: Path) -> None:
    """Rotate the keys, erase a member; the proof stands by itself."""
    rotated = await terminal.isthmus("keys", "rotate", "--json")
    assert rotated.returncode == 0, rotated.stderr
    assert json.loads(rotated.stdout)["finished"]
    with psycopg.connect(plain(postgres.url(LauncherSettings(home=home).layout))) as connection:
        connection.execute(
            "INSERT INTO members.member (member_id, phone_index, phone, name, address, registered_time, region)"
            " SELECT 'gone', sha256('x'), 'x', 'x', 'x', now(), 'CN'",
        )
    proof = home / "erased.jsonl"
    shred = ("keys", "shred", "gone", "--yes", "--proof", str(proof), "--json")
    done = await terminal.isthmus(*shred)
    assert done.returncode == 0, done.stderr
    lines = proof.read_text().splitlines()
    assert '"EraseMember"' in lines[0]
    assert '"gone"' in lines[0]
    offline = ("audit", "verify", "--export", str(proof), "--key", str(home / VERIFIER_KEY))
    assert (await elsewhere.isthmus(*offline)).returncode == 0
    proof.write_text(proof.read_text().replace('"gone"', '"else"'))
    assert (await elsewhere.isthmus(*offline)).returncode == 1


async def grade(terminal: Terminal) -> None:
    """Who may see others' records is given, listed and taken away."""
    given = await terminal.isthmus("members", "grade", "member-of-staff", "general", "--days", "7")
    assert given.returncode == 0, given.stderr
    (listed,) = json.loads((await terminal.isthmus("members", "grades", "--json")).stdout)
    assert (listed["subject"], listed["grade"]) == ("member-of-staff", "general")
    assert listed["ends_time_us"] - listed["given_time_us"] == 7 * 86_400_000_000
    assert (await terminal.isthmus("members", "grade", "member-of-staff", "none")).returncode == 0
    assert json.loads((await terminal.isthmus("members", "grades", "--json")).stdout) == []


async def remove(terminal: Terminal, home: Path) -> None:
    """What retention removes is shown beside how long the contract keeps what."""
    url = postgres.url(LauncherSettings(home=home).layout)
    with psycopg.connect(plain(url)) as connection:
        old = "INSERT INTO members.idempotency VALUES ('x', 'x', 'x', NULL, now() - interval '400 days')"
        connection.execute(old)
    engine = async_engine(url)
    assert await Expiry.of_idempotency(engine, remover(), "members", 86_400).round() == 1
    await engine.dispose()
    done = await terminal.isthmus("retention", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"class": "SENSITIVE", "days": 365} in found["classes"]
    assert {"topic": "isthmus.click.v1", "days": 30} in found["events"]
    assert [(each["place"], each["removed"]) for each in found["removed"]] == [("members.idempotency", 1)]


async def thin_out(terminal: Terminal, elsewhere: Terminal, home: Path) -> None:
    """Three years later, records of calls that answered with little are gone; the log and its export verify."""
    engine = async_engine(own(postgres.url(LauncherSettings(home=home).layout), "audit"))
    signer = Signer.open_or_create(home / SIGNING_KEY, ORIGIN)
    days = load().recorded_days[DataClass.INTERNAL] + 1
    gone = await LogRetention(engine, load(), remover(days, "audit"), signer).round()
    await engine.dispose()
    assert gone > 0
    shown = json.loads((await terminal.isthmus("retention", "--json")).stdout)
    assert {"class": "INTERNAL", "days": days - 1} in shown["records"]
    assert ("audit.record", gone) in [(each["place"], each["removed"]) for each in shown["removed"]]
    verified = await terminal.isthmus("audit", "verify", "--json")
    assert verified.returncode == 0, verified.stdout
    assert json.loads(verified.stdout)["removed"] == gone
    export = home / "thinned.jsonl"
    assert (await terminal.isthmus("audit", "export", "--output", str(export))).returncode == 0
    offline = await elsewhere.isthmus("audit", "verify", "--export", str(export), "--key", str(home / VERIFIER_KEY))
    assert offline.returncode == 0, offline.stdout
    assert f"{gone} of them removed by retention" in offline.stdout


async def test_a_refused_call_to_a_running_room_is_shown(
    tmp_path: Path, terminal: Terminal, elsewhere: Terminal
) -> None:
    async with LocalMesh(
        tmp_path, free_port_base(), only=("members-1", "oauth-1", "witness", "audit", "control-private")
    ) as mesh:
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
                done = await terminal.isthmus("audit", "list", "--json", "--limit", "2")
                assert done.returncode == 0, done.stderr
                shown = json.loads(done.stdout)
        assert {(one["method"].rsplit("/", 1)[1], one["decision"], one["result"]) for one in shown} == {
            ("CountMembers", "allowed", "OK"),
            ("GetMember", "denied", "PERMISSION_DENIED"),
        }
        table = await terminal.isthmus("audit", "tail", "--denied")
        assert "CALLER_NOT_ALLOWED" in table.stdout
        assert "member-1" in table.stdout

        found = await terminal.isthmus("audit", "search", "--about", "member-1", "--json")
        assert [one["decision"] for one in json.loads(found.stdout)] == ["denied"]
        none = await terminal.isthmus("audit", "search", "--peer", "orders", "--json")
        assert json.loads(none.stdout) == []

        await until_signed(tmp_path)
        export = tmp_path / "export.jsonl"
        done = await terminal.isthmus("audit", "export", "--output", str(export))
        assert done.returncode == 0, done.stderr
        await erase(terminal, elsewhere, tmp_path)
        await remove(terminal, tmp_path)
        await grade(terminal)
        said = await terminal.isthmus("audit", "report", "--json")
        rights = {(one["workload"], one["method"]): one for one in json.loads(said.stdout)["rights"]}
        assert rights["operator", "/isthmus.members.v1.Members/GetMember"]["denied"] == 1
        messages = tmp_path / "messages.txt"
        done = await terminal.isthmus("audit", "export", "--format", "syslog", "--output", str(messages))
        assert done.returncode == 0, done.stderr
        assert all(line.startswith("<1") and "[isthmus@32473 " in line for line in messages.read_text().splitlines())
        verified = await terminal.isthmus("audit", "verify", "--json")
        assert verified.returncode == 0, verified.stdout
        assert json.loads(verified.stdout)["ok"]
        assert json.loads(verified.stdout)["witnessed"]["size"] > 0
        laid = await terminal.isthmus("override", "fault", "members/GetMember", "--delay-ms", "1")
        assert laid.returncode == 0, laid.stderr
        (listed,) = json.loads((await terminal.isthmus("override", "list", "--json")).stdout)
        assert (listed["on"], listed["delay_ms"]) == ("/isthmus.members.v1.Members/GetMember", 1)
        found = await terminal.isthmus("audit", "search", "--trace", listed["record"], "--json")
        assert ["fault" in one["reason"] for one in json.loads(found.stdout)] == [True]
        assert (await terminal.isthmus("override", "clear")).returncode == 0
        noted = await terminal.isthmus(
            "audit", "tail", "--method", "/isthmus.audit.v1.AuditLog/RecordActivity", "--json"
        )
        assert [one["reason"].split()[0] for one in json.loads(noted.stdout)] == [
            "LOG_VERIFIED",
            "CONFIGURATION_CHANGED",
            "CONFIGURATION_CHANGED",
        ]
        await thin_out(terminal, elsewhere, tmp_path)
    stopped = await terminal.isthmus("audit", "tail")
    assert stopped.returncode == NotRunning.exit_code
    assert "make run" in stopped.stderr
    assert "Traceback" not in stopped.stderr

    # Elsewhere, later: nothing is left but the file and the public key.
    key = tmp_path / VERIFIER_KEY
    offline = ("audit", "verify", "--export", str(export), "--key", str(key))
    assert (await elsewhere.isthmus(*offline)).returncode == 0
    export.write_text(export.read_text().replace('"member-1"', '"member-2"'))
    altered = await elsewhere.isthmus(*offline, "--json")
    assert altered.returncode == 1
    assert {finding["kind"] for finding in json.loads(altered.stdout)["findings"]} == {"altered"}
