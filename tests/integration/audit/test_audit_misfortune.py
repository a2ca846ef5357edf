"""A full disk, a file taken away, a witness away or silent, a clock that steps: nothing is lost, and nothing lied."""

import errno
import socket
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from mesh.clock import SystemClock
from mesh.database.engine import async_engine
from mesh.spiffe import SpiffeId
from security.audit import witness_client
from security.audit.findings import Tampering
from security.audit.port import AuditUnavailable
from security.audit.postgres import PostgresAuditSink
from security.audit.sequencer import Sequencer
from security.audit.store import AuditStore
from security.audit.tree_store import TreeStore
from security.audit.witness_client import WitnessAway, WitnessClient
from security.audit.witnessing import Witnessing
from tests.integration.audit.kept_log import LEAVES, Log, record
from tests.integration.audit.test_witnessed_log import InProcess, witness_name, witness_of
from tests.integration.control.world import eventually
from tests.integration.room import PrivateRoom, own


async def test_a_database_whose_disk_is_full_refuses_and_loses_no_record(log: Log) -> None:
    sink = PostgresAuditSink(async_engine(own(log.url, "audit")))
    await sink.start()
    log.sql(
        "CREATE FUNCTION audit.full() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$",
        "CREATE TRIGGER full_disk BEFORE INSERT ON audit.record EXECUTE FUNCTION audit.full()",
    )
    with pytest.raises(AuditUnavailable):
        await sink.append(record(LEAVES))
    with pytest.raises(AuditUnavailable):
        sink.require_open()
    log.sql("DROP TRIGGER full_disk ON audit.record")

    async def opened() -> bool:
        try:
            sink.require_open()
        except AuditUnavailable:
            return False
        return True

    await eventually(opened, "the log takes records again")
    await sink.append(record(LEAVES + 1))
    await sink.stop(5)
    assert log.one("SELECT count(*) FROM audit.record") == LEAVES + 2


class FullDisk:
    """Where the checkpoint file lies; no note is written while it is full."""

    def __init__(self, log: Log) -> None:
        self._file = log.file
        self.full = True

    def newest(self) -> str | None:
        return self._file.newest()

    def append(self, note: str) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._file.append(note)


async def test_a_checkpoint_that_no_disk_takes_is_handed_out_when_one_does(log: Log) -> None:
    engine = async_engine(own(log.url, "audit"))
    disk = FullDisk(log)
    sequencer = Sequencer(TreeStore(engine, log.signer, SystemClock()), log.signer.verifier, [disk])
    await log._write(record(LEAVES))
    # It signs and goes on, and says what is wrong.
    await sequencer.attempt()
    assert len(log.file.notes()) == 3
    await log._write(record(LEAVES + 1))
    disk.full = False
    await sequencer.attempt()
    await engine.dispose()
    report = log.verify(later_s=60)
    assert report.findings == []
    assert report.newest is not None
    assert report.newest.size == LEAVES + 2


async def test_a_checkpoint_file_that_is_taken_away_comes_back_with_the_next_and_the_gap_is_told(log: Log) -> None:
    log.file.newest()
    log.checkpoints.unlink()
    (finding,) = log.verify(later_s=60).findings
    assert finding.kind is Tampering.CUT
    await log.written(record(LEAVES))
    assert [each.count("\n") for each in log.file.notes()] == [5]
    assert log.verify(later_s=60).findings == []


@pytest.mark.parametrize("hangs", [True, False])
async def test_signing_goes_on_without_the_witness_which_is_caught_up_with(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    monkeypatch.setattr(witness_client, "TIMEOUT_S", 0.2)
    silent = socket.socket()
    silent.bind(("127.0.0.1", 0))
    port = silent.getsockname()[1]
    if hangs:
        # Connections are made, and nobody says anything.
        silent.listen()
    else:
        silent.close()
    identity = PrivateRoom(tmp_path / "room", "audit").identity
    client = WitnessClient(f"127.0.0.1:{port}", SpiffeId("public", "witness"), identity)
    with pytest.raises(WitnessAway):
        await client.add_checkpoint(0, (), log.file.notes()[0])

    engine = async_engine(own(log.url, "audit"))
    away = Witnessing(AuditStore(engine), client, witness_name(log))
    await away.attempt()
    await log.written(record(LEAVES))
    await away.attempt()
    back = Witnessing(AuditStore(engine), InProcess(witness_of(log)), witness_name(log))
    await back.attempt()
    await engine.dispose()
    silent.close()
    assert log.one("SELECT max(tree_size) FROM audit.cosignature") == LEAVES + 1
    assert log.verify().ok


async def test_a_step_of_the_clock_back_and_forth_changes_nothing_that_is_signed(log: Log) -> None:
    day_us = 86_400_000_000
    await log.written(replace(record(LEAVES), time_us=record(0).time_us - day_us))
    await log.written(replace(record(LEAVES + 1), time_us=time.time_ns() // 1000 + day_us))
    await log.written(record(LEAVES + 2))
    log.sql("UPDATE audit.checkpoint SET time_us = time_us - 86400000000 WHERE tree_size = 32")
    report = log.verify()
    assert report.findings == []
    engine = async_engine(own(log.url, "audit"))
    # Who asks for a time gets all between its first and its last record, wherever those stand.
    proof = await AuditStore(engine).prove_range(record(0).time_us, record(LEAVES + 3).time_us)
    await engine.dispose()
    assert proof is not None
    assert (proof.first, proof.end) == (0, LEAVES + 3)
