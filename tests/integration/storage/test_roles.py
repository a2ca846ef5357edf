"""Each room's process may touch what is its own, and add to the audit log: by the database's word."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.database.engine import async_engine
from mesh.database.migrate import migrate, owners
from mesh.database.roles import as_role
from security.audit.postgres import COPIED_MIN, PostgresAuditSink
from security.audit.record import AuditRecord, Decision
from tests.integration.room import plain

FOLDERS = [owner.versions.parent for owner in owners()]


@pytest.fixture(scope="module")
def url(postgres_url: str) -> str:
    migrate(postgres_url)
    # Once more, as every start does.
    migrate(postgres_url)
    return postgres_url


@contextmanager
def connected(url: str, workload: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(plain(as_role(url, workload, FOLDERS)), autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize(
    ("workload", "allowed"),
    [
        ("orders", "SELECT * FROM orders.placed_order"),
        ("orders", "UPDATE orders.stock SET on_hand = 1"),
        ("orders", "SELECT version_num FROM orders.alembic_version"),
        ("payments", "SELECT orders.follow_payment('no-order', 'captured')"),
        ("payments", "DELETE FROM payments.idempotency"),
        ("payments", "SELECT * FROM payments.posting"),
    ],
)
def test_a_room_does_its_work(url: str, workload: str, allowed: str) -> None:
    with connected(url, workload) as connection:
        connection.execute(allowed)


@pytest.mark.parametrize(
    ("workload", "refused"),
    [
        ("orders", "SELECT * FROM payments.payment"),
        ("orders", "SELECT * FROM members.member"),
        ("orders", "SELECT orders.follow_payment('no-order', 'captured')"),
        ("orders", "SELECT * FROM outbox.event"),
        ("orders", "CREATE TABLE orders.mine (one integer)"),
        ("payments", "SELECT * FROM orders.placed_order"),
        ("payments", "UPDATE orders.placed_order SET state = 'captured'"),
        ("payments", "SELECT orders.end_reservation('no-order', true)"),
        ("payments", "UPDATE payments.posting SET amount = 0"),
        ("payments", "DELETE FROM payments.transfer"),
        ("payments", "UPDATE payments.account SET overdraft = NULL"),
        ("payments", "TRUNCATE payments.posting"),
        ("payments", "SELECT method FROM audit.record"),
        ("payments", "UPDATE audit.record SET method = ''"),
        ("orders", "DELETE FROM audit.record"),
        ("orders", "SET session_replication_role = replica"),
    ],
)
def test_a_room_does_nothing_else(url: str, workload: str, refused: str) -> None:
    with connected(url, workload) as connection, pytest.raises(InsufficientPrivilege):
        connection.execute(refused)


@pytest.mark.parametrize("workload", ["orders", "payments"])
async def test_a_room_keeps_audit_records_that_it_cannot_read(url: str, workload: str) -> None:
    engine: AsyncEngine = async_engine(as_role(url, workload, FOLDERS), pool_size=1)
    sink = PostgresAuditSink(engine)
    await sink.start()
    about = dict.fromkeys(("peer", "token_subject", "token_client", "data_subject", "reason", "trace_id", "node"), "")
    record = AuditRecord(
        record_id=workload.encode().hex().ljust(32, "0"),
        time_us=1,
        method="m",
        decision=Decision.ALLOWED,
        result="OK",
        workload=workload,
        **about,
    )
    await sink.append(record)
    await sink.append(record)
    # So many at once go by COPY.
    for number in range(COPIED_MIN):
        sink.enqueue(replace(record, record_id=secrets.token_hex(16), time_us=number))
    await sink.stop(1)
    await engine.dispose()
    with psycopg.connect(plain(url)) as owner:
        rows = owner.execute("SELECT count(*) FROM audit.record WHERE workload = %s", (workload,)).fetchone()
    assert rows == (1 + COPIED_MIN,)


def test_a_workload_without_grants_connects_as_before(url: str) -> None:
    assert as_role(url, "members", FOLDERS) == url
