"""Records go when their class was kept for long enough; their leaves stay, and what went by rule is no tampering."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from isthmus.audit.v1 import audit_pb2_grpc
from isthmus.audit.v1.audit_pb2_grpc import AuditLogStub
from msgspec.structs import replace

from deploy.cli import audit_log
from mesh.contract import load
from mesh.contract.model import DataClass
from mesh.database.engine import async_engine
from security.audit import ocsf
from security.audit.alerts import AlertRules
from security.audit.export import verify_export
from security.audit.findings import Report, Tampering
from security.audit.note import Signer
from security.audit.postgres import PostgresAuditSink
from security.audit.removal import AUDITED_AS, DAY_US
from security.audit.retention import LogRetention
from security.audit.service import AuditLogService
from security.audit.store import AuditStore
from security.audit.subjects import Subjects
from security.audit.tombstones import Removal, statement
from security.audit.watch import AlertWatch
from tests.integration.audit.conftest import copied
from tests.integration.audit.kept_log import LEAVES, ORIGIN, Log, record
from tests.integration.removing import remover
from tests.integration.room import PrivateRoom, own, plain

CONTRACT = load()
# Members' data is answered by the records of the log; PlaceOrder answers with less.
LESS = "/isthmus.orders.v1.Orders/PlaceOrder"
UNKNOWN = "/isthmus.oauth.v1.Gone/Gone"
DAYS = CONTRACT.recorded_days[DataClass.SENSITIVE]


def removes(log: Log, days: float) -> int:
    """What goes when the log's records are so many days old."""
    return asyncio.run(_removes(log, days))


async def _removes(log: Log, days: float) -> int:
    engine = async_engine(own(log.url, "audit"))
    clock = remover(workload="audit")
    ahead = record(0).time_us / DAY_US + days - clock.clock.now_us() / DAY_US
    try:
        return await LogRetention(engine, CONTRACT, remover(ahead, "audit"), log.signer).round()
    finally:
        await engine.dispose()


def said(log: Log) -> list[Removal]:
    with psycopg.connect(plain(log.url)) as connection:
        found = connection.execute("SELECT reason FROM audit.record WHERE method = %s ORDER BY sequence", (AUDITED_AS,))
        return [Removal.parse(reason) for (reason,) in found]


def test_what_was_kept_long_enough_goes_by_class_and_its_leaf_stays(log: Log) -> None:
    log.write(replace(record(LEAVES), method=LESS), replace(record(LEAVES + 1), method=UNKNOWN))
    log.sign()
    less = CONTRACT.recorded_days[CONTRACT.methods[LESS].answer_class]
    assert removes(log, less - 1) == 0
    assert removes(log, less + 1) == 1
    assert removes(log, DAYS + 1) == LEAVES
    assert removes(log, DAYS + 1) == 0
    log.sign()
    report = log.verify()
    assert report.findings == []
    # One of an unknown method stays, as for the class that is kept longest, and so do the two that say what went.
    assert (report.rows, report.leaves, report.removed) == (3, LEAVES + 4, LEAVES + 1)
    rules = [(each.count, each.first, each.end, each.data_class, each.days) for each in said(log)]
    assert rules == [(1, LEAVES, LEAVES + 1, "INTERNAL", less), (LEAVES, 0, LEAVES, "SENSITIVE", DAYS)]


def test_what_says_that_records_went_never_goes(log: Log) -> None:
    removes(log, DAYS + 1)
    log.sign()
    assert removes(log, 100 * DAYS) == 0
    assert log.verify().ok


def test_a_log_grows_and_verifies_over_many_removals(log: Log) -> None:
    for number in range(3):
        assert removes(log, DAYS + 1) == (LEAVES if number == 0 else 1)
        log.write(record(LEAVES))
        log.sign()
    report = log.verify()
    assert report.findings == []
    assert report.removed == LEAVES + 2


def test_the_database_lets_go_of_nothing_that_no_removal_has_taken(log: Log) -> None:
    removes(log, DAYS + 1)
    log.write(record(LEAVES))
    for change in (
        f"DELETE FROM audit.record WHERE method <> '{AUDITED_AS}'",
        "DELETE FROM audit.record WHERE sequence < 0",
        "SET session_replication_role = replica; DELETE FROM audit.record",
        "DELETE FROM audit.removed",
        "UPDATE audit.removed SET removal = removal",
        "TRUNCATE audit.removal CASCADE",
    ):
        with psycopg.connect(plain(log.url)) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(change)
    with psycopg.connect(plain(log.url)) as connection, pytest.raises(psycopg.errors.ForeignKeyViolation):
        connection.execute(f"DELETE FROM audit.record WHERE method = '{AUDITED_AS}'")


def test_a_removal_is_all_or_nothing(log: Log) -> None:
    log.sql("CREATE RULE stays AS ON INSERT TO audit.removed DO INSTEAD NOTHING")
    with pytest.raises(Exception, match="loses nothing"):
        removes(log, DAYS + 1)
    report = log.verify()
    assert report.ok
    assert (report.rows, said(log)) == (LEAVES, [])


def one_more(log: Log) -> None:
    """A row of the database owner's own choice, under a removal that was."""
    log.sql(
        f"INSERT INTO audit.removed SELECT {LEAVES}, max(removal) FROM audit.removed",
        f"DELETE FROM audit.record WHERE sequence = {log.sequence(LEAVES)}",
    )


def without_a_tombstone(log: Log) -> None:
    log.sql(f"DELETE FROM audit.record WHERE sequence = {log.sequence(LEAVES)}")


def tombstone_gone(log: Log) -> None:
    log.sql("DELETE FROM audit.removed WHERE leaf_index = 14")


def tombstones_gone(log: Log) -> None:
    log.sql("DELETE FROM audit.removed")


def removal_gone(log: Log) -> None:
    log.sql("DELETE FROM audit.removal")


def removal_record_gone(log: Log) -> None:
    log.sql(f"DELETE FROM audit.record WHERE method = '{AUDITED_AS}'")


def removal_record_changed(log: Log) -> None:
    log.sql(f"UPDATE audit.record SET reason = replace(reason, '0-30', '0-31') WHERE method = '{AUDITED_AS}'")


def forged(log: Log) -> None:
    """A removal of the database owner's own making: its record gets a leaf like any other."""
    removal = Removal(1, LEAVES, LEAVES + 1, "SENSITIVE", DAYS, log.row(LEAVES).leaf_hash())
    made = replace(record(0), method=AUDITED_AS, reason=f"REMOVED 1 audit.record {removal.how}")
    log.write(made)
    log.sign()
    other = Signer.open_or_create(log.home / "other.key", ORIGIN)
    note, sequence = other.sign(statement(ORIGIN, made.leaf_hash())), log.sequence(LEAVES + 2)
    log.sql(
        f"INSERT INTO audit.removal VALUES ({sequence}, {LEAVES}, {LEAVES + 1}, '{note}')",
        f"INSERT INTO audit.removed VALUES ({LEAVES}, {sequence})",
        f"DELETE FROM audit.record WHERE sequence = {log.sequence(LEAVES)}",
    )


@pytest.mark.parametrize(
    "tamper",
    [
        one_more,
        without_a_tombstone,
        tombstone_gone,
        tombstones_gone,
        removal_gone,
        removal_record_gone,
        removal_record_changed,
        forged,
    ],
)
def test_a_hole_that_no_removal_accounts_for_is_a_tampering(log: Log, tamper: Callable[[Log], None]) -> None:
    assert removes(log, DAYS + 1) == LEAVES
    log.write(record(LEAVES))
    log.sign()
    assert log.verify().ok
    tamper(log)
    findings = log.verify().findings
    assert Tampering.REMOVED in {each.kind for each in findings}
    assert any(each.leaf_index is not None for each in findings)


async def exported(log: Log, home: Path, from_us: int = 0, to_us: int = 0) -> list[dict[str, Any]]:
    """As `isthmus audit export` asks for it."""
    engine = async_engine(own(log.url, "audit"))
    sink = PostgresAuditSink(async_engine(own(log.url, "audit"), pool_size=1))
    room = PrivateRoom(home, "audit")
    await sink.start()
    service = AuditLogService(AuditStore(engine), Subjects.below(home))
    async with (
        room.serving(audit_pb2_grpc.add_AuditLogServicer_to_server, service, sink),
        room.caller("operator") as channel,
    ):
        lines = [event async for event in audit_log.events(AuditLogStub(channel), from_us, to_us)]
    await sink.stop(5)
    await engine.dispose()
    return lines


def offline(log: Log, events: list[dict[str, Any]]) -> Report:
    return verify_export((json.dumps(event) for event in events), (), log.signer.verifier)


@pytest.fixture(scope="module")
def thinned(healthy: Log, tmp_path_factory: pytest.TempPathFactory) -> Log:
    """Thirty-four removed, and five that are younger by a day among them and behind. Not to be changed."""
    log = copied(healthy, tmp_path_factory.mktemp("thinned"))
    younger = [replace(record(number), time_us=record(0).time_us + DAY_US + number) for number in range(5)]
    log.write(*younger[:2])
    log.write(*(record(number) for number in range(4)))
    log.write(*younger[2:])
    log.sign()
    assert removes(log, DAYS + 0.5) == LEAVES + 4
    log.sign()
    return log


@pytest.fixture(scope="module")
def whole(thinned: Log) -> str:
    return json.dumps(asyncio.run(exported(thinned, thinned.home / "room")))


def test_an_export_of_a_log_with_removals_verifies_with_the_key_alone(thinned: Log, whole: str) -> None:
    report = offline(thinned, json.loads(whole))
    assert report.findings == []
    assert (report.leaves, report.removed) == (LEAVES + 10, LEAVES + 4)


def test_so_does_an_export_of_a_time_that_holds_a_part_of_a_removal(thinned: Log, tmp_path: Path) -> None:
    # From the first of the younger ones to the last: the thirty lie before it, four within.
    events = asyncio.run(
        exported(thinned, tmp_path / "room", record(0).time_us + DAY_US, record(0).time_us + 2 * DAY_US)
    )
    report = offline(thinned, events)
    assert report.findings == []
    assert (report.rows, report.leaves, report.removed) == (5, 9, 4)


def lines_of(events: list[dict[str, Any]], activity: str) -> list[dict[str, Any]]:
    return [event for event in events if event.get("activity_name") == activity]


def a_call_called_removed(events: list[dict[str, Any]]) -> None:
    (call, *_) = [event for event in events if event["class_uid"] == ocsf.API_ACTIVITY]
    left, gone = call["unmapped"], lines_of(events, "Removed")[0]["unmapped"]["removal"]
    events[events.index(call)] = ocsf.removed(
        left["leaf_index"], left["sequence"], bytes.fromhex(left["leaf_hash"]), gone
    )


def removal_left_out(events: list[dict[str, Any]]) -> None:
    events.remove(lines_of(events, "Removal")[0])


def removal_of_more(events: list[dict[str, Any]]) -> None:
    said = lines_of(events, "Removal")[0]["unmapped"]["record"]
    said["reason"] = said["reason"].replace("REMOVED 34", "REMOVED 35")


def removed_line_left_out(events: list[dict[str, Any]]) -> None:
    events.remove(lines_of(events, "Removed")[3])


def removed_leaf_changed(events: list[dict[str, Any]]) -> None:
    lines_of(events, "Removed")[3]["unmapped"]["leaf_hash"] = bytes(32).hex()


@pytest.mark.parametrize(
    ("tamper", "kind"),
    [
        (a_call_called_removed, Tampering.REMOVED),
        (removal_left_out, Tampering.REMOVED),
        (removal_of_more, Tampering.REMOVED),
        (removed_line_left_out, Tampering.REMOVED),
        (removed_leaf_changed, Tampering.ALTERED),
    ],
)
def test_what_was_done_to_the_removals_of_an_export_is_found(
    thinned: Log, whole: str, tamper: Callable[[list[dict[str, Any]]], None], kind: Tampering
) -> None:
    events = json.loads(whole)
    tamper(events)
    assert kind in {each.kind for each in offline(thinned, events).findings}


async def test_alerts_are_looked_for_behind_leaves_whose_records_went(thinned: Log, tmp_path: Path) -> None:
    """Those of the first leaves are gone, and the watch begins there."""
    engine = async_engine(own(thinned.url, "audit"))
    cursor = tmp_path / "alerted.txt"
    cursor.write_text("0")
    watch = AlertWatch(AuditStore(engine), AlertRules([], CONTRACT), None, cursor)
    await watch.round()
    await engine.dispose()
    assert int(cursor.read_text()) == LEAVES + 10
