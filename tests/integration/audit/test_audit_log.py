"""The log takes rows and lets none go, refuses when it cannot write, and shows the operator all of them in order."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest
from isthmus.audit.v1 import audit_pb2 as pb
from isthmus.audit.v1 import audit_pb2_grpc
from isthmus.audit.v1.audit_pb2_grpc import AuditLogStub
from msgspec.structs import fields, replace
from sqlalchemy import make_url, text

from deploy.local.mesh import LocalMesh
from mesh.clock import SystemClock
from mesh.database.engine import async_engine
from mesh.database.migrate import Owner, migrate
from mesh.errors import FailedPrecondition, InvalidArgument, PermissionDenied
from security.audit import postgres as audit_postgres
from security.audit.inspection import ROWS
from security.audit.port import AuditUnavailable
from security.audit.postgres import COPIED_MIN, PostgresAuditSink
from security.audit.record import AuditRecord, Decision
from security.audit.removal import DAY_US
from security.audit.service import AuditLogService
from security.audit.store import AuditStore, Selection
from security.audit.subjects import Subjects
from tests.integration.conftest import Background
from tests.integration.room import PrivateRoom, own, plain

RECORD = AuditRecord(
    record_id="0" * 32,
    time_us=1,
    peer="spiffe://isthmus.internal/private/core-gateway",
    token_subject="member-1",
    token_client="storefront",
    method="/isthmus.members.v1.Members/GetMember",
    data_subject="member-1",
    decision=Decision.ALLOWED,
    result="OK",
    reason="",
    trace_id="f" * 32,
    workload="members",
    node="members-1",
)
DEADLINE_S = 10.0


def record(**changes: object) -> AuditRecord:
    return replace(RECORD, **{"record_id": secrets.token_hex(16)} | changes)


@pytest.fixture(scope="module")
def url(postgres_url: str) -> str:
    migrate(postgres_url, [Owner.beside(audit_postgres.__file__)])
    return postgres_url


@pytest.fixture
async def sink(url: str) -> AsyncIterator[PostgresAuditSink]:
    sink = PostgresAuditSink(async_engine(own(url, "audit")))
    await sink.start()
    yield sink
    await sink.stop(2.0)


@pytest.fixture
async def store(url: str) -> AsyncIterator[AuditStore]:
    engine = async_engine(own(url, "audit"))
    yield AuditStore(engine)
    await engine.dispose()


async def newest(store: AuditStore) -> int:
    records = await store.list(Selection(), 1_000_000)
    return records[-1].sequence if records else 0


async def until_newer(store: AuditStore, before: int, limit_s: float) -> None:
    async with asyncio.timeout(limit_s):
        while await newest(store) == before:  # noqa: ASYNC110 - the database rings no bell
            await asyncio.sleep(0.01)


async def test_an_appended_record_is_committed(sink: PostgresAuditSink, store: AuditStore) -> None:
    before = await newest(store)
    written = record(token_subject="名\ufffd'\"\\", reason="{},NULL")
    await sink.append(written)
    (stored,) = await store.list(Selection(after_sequence=before), 10)
    assert stored.record == written
    assert stored.leaf_hash == written.leaf_hash()


async def test_a_queued_record_is_committed_within_a_second(sink: PostgresAuditSink, store: AuditStore) -> None:
    before = await newest(store)
    sink.enqueue(record())
    await until_newer(store, before, 1.0)


async def test_what_waits_at_the_end_is_written(url: str, store: AuditStore) -> None:
    sink = PostgresAuditSink(async_engine(url))
    await sink.start()
    before = await newest(store)
    for _ in range(2500):
        sink.enqueue(record())
    await sink.stop(DEADLINE_S)
    assert len(await store.list(Selection(after_sequence=before), 10_000)) == 2500
    with pytest.raises(AuditUnavailable):
        sink.enqueue(record())


async def test_many_callers_share_commits(sink: PostgresAuditSink, store: AuditStore, url: str) -> None:
    before = await newest(store)
    await asyncio.gather(*(sink.append(record()) for _ in range(1000)))
    with psycopg.connect(plain(url)) as connection:
        commits = connection.execute(
            "SELECT count(DISTINCT xmin::text) FROM audit.record WHERE sequence > %s", (before,)
        ).fetchone()
    assert commits is not None
    assert commits[0] <= 3


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE audit.record SET result = 'OK'",
        "DELETE FROM audit.record",
        "DELETE FROM audit.record WHERE sequence < 0",
        "TRUNCATE audit.record CASCADE",
        "SET session_replication_role = replica; UPDATE audit.record SET result = 'OK'",
    ],
)
async def test_no_row_is_changed_or_removed(sink: PostgresAuditSink, url: str, change: str) -> None:
    await sink.append(record())
    with psycopg.connect(plain(url)) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(change)


async def test_a_write_repeated_after_an_unknown_outcome_is_one_record(
    sink: PostgresAuditSink, store: AuditStore
) -> None:
    before = await newest(store)
    once = record()
    await sink.append(once)
    await sink.append(once)
    assert len(await store.list(Selection(after_sequence=before), 10)) == 1


async def test_a_failing_log_refuses_at_once_and_loses_nothing(url: str, store: AuditStore) -> None:
    engine, blocker = async_engine(url), async_engine(url)
    sink = PostgresAuditSink(engine, write_s_max=0.3)
    await sink.start()
    before = await newest(store)
    written = record()
    async with blocker.connect() as connection:
        # Nothing can be inserted while this lock is held, as if the database hung.
        await connection.execute(text("LOCK TABLE audit.record IN EXCLUSIVE MODE"))
        with pytest.raises(AuditUnavailable):
            async with asyncio.timeout(DEADLINE_S):
                await sink.append(written)
        with pytest.raises(AuditUnavailable):
            sink.require_open()
        await connection.rollback()
    await until_newer(store, before, DEADLINE_S)
    (stored,) = await store.list(Selection(after_sequence=before), 10)
    assert stored.record == written
    sink.require_open()
    await sink.stop(2.0)
    await blocker.dispose()


async def crash(server: LocalMesh) -> None:
    server.kill("postgres")
    await server.suspend("postgres")
    await server.resume("postgres")
    await server.wait_ready("postgres")


@pytest.mark.parametrize("records", [1, COPIED_MIN])
async def test_the_first_write_after_a_crash_of_the_database_finds_a_new_connection(
    url: str, store: AuditStore, postgres_server: LocalMesh, background: Background, records: int
) -> None:
    sink = PostgresAuditSink(async_engine(url))
    await sink.start()
    await sink.append(record())
    before = await newest(store)
    await asyncio.to_thread(background.run, crash(postgres_server))
    for _ in range(records - 1):
        sink.enqueue(record())
    await sink.append(record())
    sink.require_open()
    assert len(await store.list(Selection(before), 2 * COPIED_MIN)) == records
    await sink.stop(1.0)


async def test_any_text_is_stored_and_hashed_as_it_is(url: str, sink: PostgresAuditSink, store: AuditStore) -> None:
    """The same for COPY of many and INSERT of one; and what a verification reads is what was hashed."""
    before = await newest(store)
    texts = (
        "",
        "\\N",
        "\\.",
        "\\x00",
        "tab\there",
        "line\nend\r\n",
        '"quoted"\b\f',
        "/\u2028\u007f\ufeff",
        "\u5f20\u4f1f \U0010ffff",
        "\x1f",
    )
    names = [field.name for field in fields(AuditRecord) if field.type is str]
    written = [
        record(**{name: texts[(number + at) % len(texts)] for at, name in enumerate(names) if name != "record_id"})
        for number in range(COPIED_MIN)
    ]
    for each in written[1:]:
        sink.enqueue(each)
    await sink.append(written[0])
    alone = replace(written[0], record_id=secrets.token_hex(16))
    await sink.append(alone)
    stored = await store.list(Selection(before), 2 * COPIED_MIN)
    assert [each.record for each in stored] == [*written[1:], written[0], alone]
    assert [each.leaf_hash for each in stored] == [each.record.leaf_hash() for each in stored]
    with psycopg.connect(plain(url)) as connection:
        read = {sequence: bytes(canonical) for sequence, canonical, _ in connection.execute(ROWS)}
    assert [read[each.sequence] for each in stored] == [each.record.canonical() for each in stored]


async def test_too_many_waiting_records_are_refused(url: str) -> None:
    sink = PostgresAuditSink(async_engine(url), pending_max=3)
    await sink.start()
    for _ in range(3):
        sink.enqueue(record())
    with pytest.raises(AuditUnavailable):
        sink.enqueue(record())
    await sink.stop(2.0)


async def test_without_its_schema_the_log_does_not_start(url: str) -> None:
    elsewhere = make_url(url).set(database="postgres").render_as_string(hide_password=False)
    sink = PostgresAuditSink(async_engine(elsewhere))
    with pytest.raises(FailedPrecondition, match="SCHEMA_NOT_CURRENT"):
        await sink.start()
    await sink.stop(1.0)


async def test_a_page_never_skips_what_commits_late(url: str, sink: PostgresAuditSink, store: AuditStore) -> None:
    other = async_engine(url)
    before = await newest(store)
    async with other.connect() as connection:
        # A slow writer has drawn its number and has not committed; a faster one then commits a later number.
        await connection.execute(
            text(
                "INSERT INTO audit.record (record_id, time_us, peer, token_subject, token_client, method, data_subject,"
                " decision, result, reason, trace_id, workload, node, leaf_hash) VALUES (gen_random_uuid(), 1, '', '',"
                " '', 'slow', '', 1, 'OK', '', '', '', '', decode(repeat('00', 32), 'hex'))"
            )
        )
        await sink.append(record())
        reading = asyncio.create_task(store.list(Selection(after_sequence=before), 10))
        await asyncio.wait([reading], timeout=0.2)
        assert not reading.done()
        await connection.commit()
        assert [stored.record.method for stored in await reading] == ["slow", RECORD.method]
    await other.dispose()


async def test_the_operator_reads_the_log_and_is_on_record_for_it(
    tmp_path: Path, sink: PostgresAuditSink, store: AuditStore
) -> None:
    room = PrivateRoom(tmp_path, "audit")
    before = await newest(store)
    await sink.append(record(data_subject="member-7"))
    await sink.append(record(decision=Decision.DENIED, result="PERMISSION_DENIED", reason="SCOPE_MISSING"))
    adder = audit_pb2_grpc.add_AuditLogServicer_to_server
    async with room.serving(adder, AuditLogService(store, Subjects.below(tmp_path)), sink):
        async with room.caller("operator") as channel:
            listed = AuditLogStub(channel).ListRecords
            everything = await listed(pb.ListRecordsRequest(after_sequence=before))
            assert [one.data_subject for one in everything.records] == ["member-7", "member-1"]
            denied = await listed(pb.ListRecordsRequest(after_sequence=before, decision=pb.DECISION_DENIED))
            assert [one.reason for one in denied.records] == ["SCOPE_MISSING"]
            about = await listed(pb.ListRecordsRequest(after_sequence=before, data_subject="member-7", page_size=1))
            assert [one.leaf_hash for one in about.records] == [everything.records[0].leaf_hash]
            assert not (await listed(pb.ListRecordsRequest(after_sequence=2**64 - 1))).records
        async with room.caller("orders") as channel:
            with pytest.raises(PermissionDenied, match="CALLER_NOT_ALLOWED"):
                await AuditLogStub(channel).ListRecords(pb.ListRecordsRequest())
    reads = [
        stored.record for stored in await store.list(Selection(before, "/isthmus.audit.v1.AuditLog/ListRecords"), 10)
    ]
    assert [read.decision for read in reads] == [Decision.ALLOWED] * 4 + [Decision.DENIED]


async def test_what_an_operator_did_beside_the_services_is_on_record(
    tmp_path: Path, sink: PostgresAuditSink, store: AuditStore
) -> None:
    room, before = PrivateRoom(tmp_path, "audit"), await newest(store)
    adder = audit_pb2_grpc.add_AuditLogServicer_to_server
    async with room.serving(adder, AuditLogService(store, Subjects.below(tmp_path)), sink):
        async with room.caller("operator") as channel:
            note = AuditLogStub(channel).RecordActivity
            await note(pb.RecordActivityRequest(activity=pb.ACTIVITY_DRILL_HELD, about="broker-crash"))
            with pytest.raises(InvalidArgument):
                await note(pb.RecordActivityRequest(about="broker-crash"))
        async with room.caller("orders") as channel:
            with pytest.raises(PermissionDenied, match="CALLER_NOT_ALLOWED"):
                await AuditLogStub(channel).RecordActivity(pb.RecordActivityRequest())
    noted = [stored.record for stored in await store.list(Selection(before), 10)]
    assert [(each.reason, each.result, each.peer.rpartition("/")[2]) for each in noted] == [
        ("DRILL_HELD broker-crash", "OK", "operator"),
        ("FIELDS_INVALID", "INVALID_ARGUMENT", "operator"),
        ("CALLER_NOT_ALLOWED", "PERMISSION_DENIED", "orders"),
    ]


async def test_an_operator_accepts_a_clock_that_agrees_with_their_own(
    tmp_path: Path, sink: PostgresAuditSink, store: AuditStore
) -> None:
    room, before, now_us = PrivateRoom(tmp_path, "audit"), await newest(store), SystemClock().now_us()
    await store.accept_clock(now_us - 40 * DAY_US)
    adder = audit_pb2_grpc.add_AuditLogServicer_to_server
    async with (
        room.serving(adder, AuditLogService(store, Subjects.below(tmp_path)), sink),
        room.caller("operator") as channel,
    ):
        accept = AuditLogStub(channel).AcceptClock
        with pytest.raises(FailedPrecondition, match="CLOCKS_DISAGREE"):
            await accept(pb.AcceptClockRequest(now_us=now_us - DAY_US))
        answer = await accept(pb.AcceptClockRequest(now_us=now_us))
        assert abs(answer.before_us - (now_us - 40 * DAY_US)) <= 1
    noted = [stored.record.reason for stored in await store.list(Selection(before), 10)]
    assert noted == ["CLOCKS_DISAGREE", "CLOCK_ACCEPTED 40 days ahead"]
