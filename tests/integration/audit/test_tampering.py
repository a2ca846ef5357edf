"""Whoever owns the database can write anything into it, and cannot do so unseen: each change is found and named."""

import asyncio
import base64
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url

from mesh.clock import SystemClock
from mesh.database.engine import async_engine
from mesh.database.migrate import Owner, migrate
from security.audit import postgres as audit_postgres
from security.audit.checkpoint import CheckpointFile
from security.audit.cosignature import Cosigner
from security.audit.findings import KeptNote, Report, Tampering
from security.audit.inspection import inspect
from security.audit.note import Signer, Verifier
from security.audit.postgres import PostgresAuditSink
from security.audit.record import AuditRecord, Decision
from security.audit.sequencer import Sequencer
from security.audit.store import AuditStore
from security.audit.tree_store import LogDamaged, TreeStore
from security.audit.witness_client import OtherSize, WitnessRefused
from security.audit.witnessing import Witnessing
from security.witness.state import WitnessedLog
from security.witness.witness import Witness
from tests.integration.room import plain

ORIGIN = "isthmus.internal/audit"
# So many rows are under each of the first checkpoints.
BATCH = 10
BATCHES = 3
LEAVES = BATCH * BATCHES
COLUMNS = (
    "record_id, time_us, peer, token_subject, token_client, method, data_subject, decision, result, reason, trace_id,"
    " workload, node, leaf_hash"
)


def record(number: int) -> AuditRecord:
    return AuditRecord(
        record_id=secrets.token_hex(16),
        time_us=1_700_000_000_000_000 + number,
        peer="spiffe://isthmus.internal/private/core-gateway",
        token_subject="member-1",
        token_client="storefront",
        method="/isthmus.members.v1.Members/GetMember",
        data_subject=f"member-{number}",
        decision=Decision.ALLOWED,
        result="OK",
        reason="",
        trace_id="f" * 32,
        workload="members",
        node="members-1",
    )


@dataclass
class Log:
    """A log of three batches, and the hand that changes it."""

    url: str
    home: Path
    signer: Signer

    @property
    def file(self) -> CheckpointFile:
        return CheckpointFile(self.home / "checkpoints.txt")

    def write(self, *records: AuditRecord) -> None:
        async def work() -> None:
            sink = PostgresAuditSink(async_engine(self.url))
            await sink.start()
            for each in records:
                await sink.append(each)
            await sink.stop(5)

        asyncio.run(work())

    def sign(self) -> None:
        async def work() -> None:
            engine = async_engine(self.url)
            store = TreeStore(engine, self.signer, SystemClock())
            try:
                await Sequencer(store, self.signer.verifier, [self.file], 1.0).round()
            finally:
                await engine.dispose()

        asyncio.run(work())

    def sql(self, *statements: str) -> None:
        """What a superuser can do by hand."""
        with psycopg.connect(plain(self.url)) as connection:
            for table in ("record", "leaf", "checkpoint", "cosignature"):
                connection.execute(f"ALTER TABLE audit.{table} DISABLE TRIGGER ALL")
            for statement in statements:
                connection.execute(statement)
            for table in ("record", "leaf", "checkpoint", "cosignature"):
                connection.execute(f"ALTER TABLE audit.{table} ENABLE TRIGGER ALL")

    def one(self, query: str) -> Any:
        with psycopg.connect(plain(self.url)) as connection:
            found = connection.execute(query).fetchone()
        assert found is not None
        return found[0]

    def sequence(self, leaf: int) -> int:
        return int(self.one(f"SELECT record_sequence FROM audit.leaf WHERE leaf_index = {leaf}"))

    def row(self, leaf: int) -> AuditRecord:
        columns = ", ".join(AuditRecord.__slots__)
        with psycopg.connect(plain(self.url)) as connection:
            found = connection.execute(
                f"SELECT {columns} FROM audit.record WHERE sequence = %s", (self.sequence(leaf),)
            ).fetchone()
        assert found is not None
        values = dict(zip(AuditRecord.__slots__, found, strict=True))
        return AuditRecord(**values | {"record_id": found[0].hex, "decision": Decision(values["decision"])})

    def verify(self, verifier: Verifier | None = None, later_s: int = 0) -> Report:
        now_us = SystemClock().now_us() + later_s * 1_000_000
        return inspect(self.url, self.file, verifier or self.signer.verifier, now_us)


@pytest.fixture(scope="module")
def healthy(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Log:
    migrate(postgres_url, [Owner.beside(audit_postgres.__file__)])
    home = tmp_path_factory.mktemp("healthy")
    log = Log(postgres_url, home, Signer.open_or_create(home / "checkpoint.key", ORIGIN))
    for batch in range(BATCHES):
        log.write(*(record(batch * BATCH + number) for number in range(BATCH)))
        log.sign()
    return log


@pytest.fixture
def log(healthy: Log, tmp_path: Path) -> Log:
    """A copy of the healthy log, in a database of its own."""
    parsed, name = make_url(healthy.url), f"log_{secrets.token_hex(4)}"
    with psycopg.connect(plain(parsed.set(database="postgres").render_as_string(False)), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {parsed.database}")
    shutil.copytree(healthy.home, tmp_path, dirs_exist_ok=True)
    return Log(parsed.set(database=name).render_as_string(False), tmp_path, healthy.signer)


def test_a_healthy_log_verifies(log: Log) -> None:
    report = log.verify()
    assert report.findings == []
    assert (report.rows, report.leaves, report.pending) == (LEAVES, LEAVES, 0)
    assert report.newest is not None
    assert report.newest.size == LEAVES
    log.write(record(LEAVES))
    report = log.verify()
    assert report.ok
    assert report.pending == 1


def altered(log: Log) -> None:
    log.sql(f"UPDATE audit.record SET data_subject = 'member-99' WHERE sequence = {log.sequence(14)}")


def altered_beyond_what_a_record_holds(log: Log) -> None:
    log.sql(
        "ALTER TABLE audit.record DROP CONSTRAINT record_decision_check",
        f"UPDATE audit.record SET decision = 7 WHERE sequence = {log.sequence(14)}",
    )


def altered_with_its_column(log: Log) -> None:
    changed = replace(log.row(14), data_subject="member-99").leaf_hash().hex()
    log.sql(
        f"UPDATE audit.record SET data_subject = 'member-99', leaf_hash = '\\x{changed}'"
        f" WHERE sequence = {log.sequence(14)}"
    )


def altered_column(log: Log) -> None:
    log.sql(f"UPDATE audit.record SET leaf_hash = sha256('x') WHERE sequence = {log.sequence(14)}")


def altered_leaf(log: Log) -> None:
    log.sql("UPDATE audit.leaf SET leaf_hash = sha256('x') WHERE leaf_index = 14")


def removed(log: Log) -> None:
    log.sql(f"DELETE FROM audit.record WHERE sequence = {log.sequence(14)}")


def removed_leaf(log: Log) -> None:
    log.sql("DELETE FROM audit.leaf WHERE leaf_index = 14")


def removed_with_its_leaf(log: Log) -> None:
    log.sql(
        f"DELETE FROM audit.record WHERE sequence = {log.sequence(14)}",
        "DELETE FROM audit.leaf WHERE leaf_index = 14",
    )


def swapped(log: Log) -> None:
    first, second = log.sequence(14), log.sequence(15)
    update = "UPDATE audit.record SET sequence = {} WHERE sequence = {}"
    log.sql(
        "ALTER TABLE audit.record ALTER sequence DROP IDENTITY",
        update.format(-1, first),
        update.format(first, second),
        update.format(second, -1),
    )


def swapped_leaves(log: Log) -> None:
    first, second = log.sequence(14), log.sequence(15)
    update = "UPDATE audit.leaf SET record_sequence = {} WHERE leaf_index = {}"
    log.sql(update.format(-1, 14), update.format(first, 15), update.format(second, 14))


@pytest.mark.parametrize(
    ("tamper", "kind"),
    [
        (altered, Tampering.ALTERED),
        (altered_beyond_what_a_record_holds, Tampering.ALTERED),
        (altered_with_its_column, Tampering.ALTERED),
        (altered_column, Tampering.ALTERED),
        (altered_leaf, Tampering.ALTERED),
        (removed, Tampering.REMOVED),
        (removed_leaf, Tampering.REMOVED),
        (removed_with_its_leaf, Tampering.REMOVED),
        (swapped, Tampering.REORDERED),
        (swapped_leaves, Tampering.REORDERED),
    ],
)
def test_what_was_done_to_a_row_is_named_with_the_row(log: Log, tamper: Callable[[Log], None], kind: Tampering) -> None:
    sequence = log.sequence(14)
    tamper(log)
    report = log.verify()
    assert {finding.kind for finding in report.findings} == {kind}, report.findings
    about = {14, 15} if kind is Tampering.REORDERED else {14}
    assert {finding.leaf_index for finding in report.findings} == about
    if tamper is not removed_with_its_leaf:
        assert sequence in {finding.sequence for finding in report.findings}


def test_a_row_changed_with_all_that_is_stored_about_it_is_found_by_the_signed_root(log: Log) -> None:
    altered_with_its_column(log)
    log.sql(
        "UPDATE audit.leaf SET leaf_hash = (SELECT leaf_hash FROM audit.record WHERE sequence = record_sequence)"
        " WHERE leaf_index = 14"
    )
    (finding,) = log.verify().findings
    assert finding.kind is Tampering.ALTERED
    assert finding.leaf_index is not None
    assert finding.leaf_end is not None
    # As close as the signed subtrees tell.
    assert finding.leaf_index <= 14 < finding.leaf_end
    assert finding.leaf_end - finding.leaf_index <= BATCH


def test_an_inserted_row_is_named(log: Log) -> None:
    # A number that was drawn and never used: a gap as any aborted transaction leaves it.
    log.one("SELECT nextval('audit.record_sequence_seq')")
    log.write(record(LEAVES))
    log.sign()
    gap = log.sequence(LEAVES) - 1
    log.sql(
        f"INSERT INTO audit.record (sequence, {COLUMNS}) OVERRIDING SYSTEM VALUE SELECT {gap}, gen_random_uuid(),"
        f" {COLUMNS.partition(', ')[2]} FROM audit.record WHERE sequence = {log.sequence(3)}"
    )
    findings = log.verify().findings
    assert {finding.kind for finding in findings if finding.sequence == gap} >= {Tampering.INSERTED}
    assert {finding.sequence for finding in findings} == {gap}


def cut_rows(log: Log) -> None:
    log.sql(f"DELETE FROM audit.record WHERE sequence >= {log.sequence(25)}")


def cut_rows_and_leaves(log: Log) -> None:
    log.sql(
        f"DELETE FROM audit.record WHERE sequence >= {log.sequence(25)}",
        "DELETE FROM audit.leaf WHERE leaf_index >= 25",
    )


def cut_everything(log: Log) -> None:
    cut_rows_and_leaves(log)
    log.sql("DELETE FROM audit.checkpoint WHERE tree_size > 25")


@pytest.mark.parametrize("cut", [cut_rows, cut_rows_and_leaves, cut_everything])
def test_a_cut_tail_is_found(log: Log, cut: Callable[[Log], None]) -> None:
    cut(log)
    findings = log.verify().findings
    assert Tampering.CUT in {finding.kind for finding in findings}
    assert {finding.kind for finding in findings} <= {Tampering.CUT, Tampering.UNSIGNED}
    assert min(finding.leaf_index for finding in findings if finding.leaf_index is not None) == 25


def test_nothing_is_signed_on_a_log_that_was_cut(log: Log) -> None:
    cut_everything(log)
    log.write(record(LEAVES))
    with pytest.raises(LogDamaged):
        log.sign()
    assert len(log.file.notes()) == BATCHES


def test_a_fork_is_found(log: Log) -> None:
    handed_out = log.file.notes()
    log.sql(
        f"DELETE FROM audit.record WHERE sequence >= {log.sequence(20)}",
        "DELETE FROM audit.leaf WHERE leaf_index >= 20",
        "DELETE FROM audit.checkpoint WHERE tree_size > 20",
    )
    (log.home / "checkpoints.txt").unlink()
    # Another story, signed with the true key by somebody who thinks that nobody kept the first one.
    log.write(*(record(number) for number in range(BATCH + 5)))
    log.sign()
    assert log.verify().ok
    for note in handed_out:
        log.file.append(note)
    (finding,) = log.verify().findings
    assert finding.kind is Tampering.FORKED
    assert (finding.leaf_index, finding.leaf_end) == (20, LEAVES)


def test_a_wrong_key_is_named(log: Log) -> None:
    other = Signer.open_or_create(log.home / "other.key", ORIGIN)
    kinds = [finding.kind for finding in log.verify(other.verifier).findings]
    assert kinds == [Tampering.WRONG_KEY, Tampering.UNSIGNED]
    signed_again = replace(log, signer=other)
    signed_again.sql("DELETE FROM audit.checkpoint", "DELETE FROM audit.leaf")
    (log.home / "checkpoints.txt").unlink()
    signed_again.sign()
    assert signed_again.verify().ok
    assert Tampering.WRONG_KEY in {finding.kind for finding in log.verify().findings}


def test_a_forged_checkpoint_does_not_count(log: Log) -> None:
    log.sql(f"UPDATE audit.checkpoint SET note = replace(note, E'\\n{LEAVES}\\n', E'\\n{LEAVES + 1}\\n')")
    assert {finding.kind for finding in log.verify().findings} == {Tampering.ALTERED}


def test_a_checkpoint_file_that_was_taken_away_is_missed(log: Log) -> None:
    assert log.verify(later_s=60).ok
    (log.home / "checkpoints.txt").unlink()
    (finding,) = log.verify(later_s=60).findings
    assert finding.kind is Tampering.CUT
    assert "checkpoint file" in finding.message


def test_sequence_numbers_without_a_row_are_no_tampering(log: Log) -> None:
    log.one("SELECT nextval('audit.record_sequence_seq')")
    log.write(record(LEAVES))
    log.sign()
    assert log.verify().ok


async def asked(log: Log, witness: Witness) -> None:
    engine = async_engine(log.url)
    try:
        await Witnessing(AuditStore(engine), InProcess(witness), witness_name(log), 1.0).round()
    finally:
        await engine.dispose()


class InProcess:
    """A witness without a wire between."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness

    async def add_checkpoint(self, old_size: int, proof: Sequence[bytes], note: str) -> str:
        lines = "".join(f"\n{base64.b64encode(each).decode()}" for each in proof)
        reply = self._witness.add_checkpoint(f"old {old_size}{lines}\n\n{note}")
        if reply.status == HTTPStatus.CONFLICT:
            raise OtherSize(int(reply.body))
        if reply.status != HTTPStatus.OK:
            raise WitnessRefused(reply.body)
        return reply.body


def witness_name(log: Log) -> str:
    return Cosigner.open_or_create(log.home / "witness.key", "isthmus.internal/witness").verifier.name


def witness_of(log: Log) -> Witness:
    (log.home / "log.pub").write_text(f"{log.signer.verifier}\n")
    cosigner = Cosigner.open_or_create(log.home / "witness.key", "isthmus.internal/witness")
    state = WitnessedLog(log.home / "witness" / "newest.txt", log.home / "log.pub")
    state.load(cosigner.verifier)
    return Witness(state, cosigner, SystemClock())


def test_a_witness_sees_what_the_owner_of_everything_here_did(log: Log) -> None:
    witness = witness_of(log)
    asyncio.run(asked(log, witness))
    cosigner = Cosigner.open_or_create(log.home / "witness.key", "isthmus.internal/witness")
    seen = KeptNote((log.home / "witness" / "newest.txt").read_text(), "the witness")

    def verified(*elsewhere: KeptNote) -> Report:
        now_us = SystemClock().now_us() + 3600 * 1_000_000
        return inspect(log.url, log.file, log.signer.verifier, now_us, elsewhere, cosigner.verifier)

    report = verified(seen)
    assert report.ok, report.findings
    assert report.witnessed is not None
    assert report.witnessed.size == LEAVES
    # Tables, checkpoints, the file and the signing key: all of it is theirs, and they cut the tail off.
    cut_from = log.sequence(20)
    log.sql("DELETE FROM audit.cosignature")
    cut_everything(log)
    log.sql("DELETE FROM audit.leaf WHERE leaf_index >= 20", f"DELETE FROM audit.record WHERE sequence >= {cut_from}")
    (log.home / "checkpoints.txt").unlink()
    log.sign()
    kinds = {finding.kind for finding in verified(seen).findings}
    assert Tampering.CUT in kinds, verified(seen).findings
    with pytest.raises(OtherSize):
        asyncio.run(asked(log, witness_of(log)))
    # They tell another story, longer than the first.
    log.write(*(record(number) for number in range(2 * BATCH)))
    log.sign()
    assert Tampering.FORKED in {finding.kind for finding in verified(seen).findings}, verified(seen).findings
    with pytest.raises(WitnessRefused):
        asyncio.run(asked(log, witness_of(log)))
    # And when the witness is asked for and nobody shows what it keeps, that is named as well.
    assert {finding.kind for finding in verified().findings} == {Tampering.UNWITNESSED}
