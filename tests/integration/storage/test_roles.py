"""Each room's process may touch what is its own, and add to the audit log: by the database's word."""

import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from msgspec.structs import replace
from psycopg.errors import InsufficientPrivilege
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.local import postgres
from deploy.local.migrate import create_database
from deploy.local.settings import LauncherSettings
from deploy.local.table import build
from mesh.database.engine import async_engine
from mesh.database.migrate import Owner, migrate, owners, require_current
from mesh.database.roles import as_role
from mesh.errors import Unavailable
from private_core.members import main as members_main
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
        ("members", "DELETE FROM members.data_key"),
        ("catalog", "INSERT INTO outbox.event (topic, key) VALUES ('isthmus.campaign.v1', 'one')"),
        ("warehouse", "DELETE FROM outbox.event WHERE topic = 'isthmus.order.v1'"),
        ("warehouse", "SELECT * FROM bridge.landing"),
        ("bridge-inbound", "DELETE FROM warehouse.click_id"),
        ("bridge-inbound", "SELECT warehouse.open_days('click', now(), 1), warehouse.drop_day('click', now())"),
        ("bridge-inbound", "CREATE TABLE bridge.shadow_click (LIKE warehouse.click); DROP TABLE bridge.shadow_click"),
        ("bridge-outbound", "SELECT * FROM outbox.event"),
        ("audit", "SELECT method FROM audit.record"),
        ("oauth", "SELECT * FROM oauth.clients"),
        ("gateway", "DELETE FROM gateway.proofs"),
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
        ("members", "DELETE FROM members.member"),
        ("members", "UPDATE members.consent SET granted = true"),
        ("members", "UPDATE members.alembic_version SET version_num = ''"),
        ("warehouse", "DELETE FROM warehouse.click"),
        ("warehouse", "SELECT * FROM bridge.dead_letter"),
        ("bridge-inbound", "UPDATE warehouse.click SET crawler = true"),
        ("bridge-inbound", "DELETE FROM warehouse.click"),
        ("warehouse", "SELECT warehouse.drop_day('click', now())"),
        ("bridge-inbound", "SELECT * FROM warehouse.purchase"),
        ("bridge-outbound", "SELECT payload FROM bridge.dead_letter"),
        ("audit", "UPDATE audit.record SET method = ''"),
        ("audit", "DELETE FROM audit.leaf"),
        ("audit", "TRUNCATE audit.checkpoint CASCADE"),
        ("audit", "UPDATE audit.cosignature SET line = ''"),
        ("audit", "ALTER TABLE audit.record DISABLE TRIGGER append_only"),
        ("audit", "SET session_replication_role = replica"),
        ("oauth", "SELECT * FROM members.data_key"),
    ],
)
def test_a_room_does_nothing_else(url: str, workload: str, refused: str) -> None:
    with connected(url, workload) as connection, pytest.raises(InsufficientPrivilege):
        connection.execute(refused)


@pytest.mark.parametrize("workload", ["orders", "bridge-outbound", "audit"])
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


def test_no_process_comes_as_the_owner(tmp_path: Path) -> None:
    """But the step that makes the schemas."""
    rows = build(LauncherSettings(home=tmp_path))
    comes = {row.process.workload: row.environment.get("ISTHMUS_DATABASE_URL") for row in rows}
    users = {workload: make_url(url).username for workload, url in comes.items() if url}
    assert users.pop("migrate") == "postgres"
    assert users == {workload: role_of(workload) for workload in WORKLOADS}


# Schema of its own, by workload.
WORKLOADS = {
    "orders": "orders",
    "payments": "payments",
    "members": "members",
    "catalog": "catalog",
    "warehouse": "warehouse",
    "oauth": "oauth",
    "gateway": "gateway",
    "audit": "audit",
    "bridge-inbound": "bridge",
    "bridge-outbound": "",
}
# What is read or written beyond it.
BEYOND = {
    *((workload, "outbox.event", "INSERT") for workload in ("orders", "payments", "catalog")),
    *((workload, "outbox.event", may) for workload in ("warehouse", "bridge-outbound") for may in ("SELECT", "DELETE")),
    *(
        ("bridge-inbound", f"warehouse.{table}{part}", may)
        for table in ("impression", "click", "content_view", "content_receipt", "spool_ledger")
        for part, rights in (("", ("SELECT", "INSERT")), ("_id", ("SELECT", "INSERT", "DELETE")))
        for may in rights
    ),
    ("warehouse", "bridge.landing", "SELECT"),
    ("bridge-outbound", "bridge.dead_letter", "INSERT"),
    # By what a trigger lets go.
    ("audit", "audit.record", "DELETE"),
    # When an operator accepts a clock.
    ("audit", "audit.retention_clock", "UPDATE"),
    *((workload, "audit.record", "INSERT") for workload in WORKLOADS if workload != "audit"),
    *((workload, "audit.alembic_version", "SELECT") for workload in WORKLOADS if workload != "audit"),
}
MAY = """
    SELECT role, nspname || '.' || relname, may
    FROM unnest(%s::text[], %s::text[]) AS one (role, own)
    CROSS JOIN pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) AS may
    WHERE nspname = ANY(%s) AND relkind IN ('r', 'p', 'v', 'm') AND has_table_privilege(role, pg_class.oid, may)
        AND (nspname <> own OR nspname = 'audit' AND may NOT IN ('SELECT', 'INSERT'))
    """


def role_of(workload: str) -> str:
    return f"isthmus_{workload.replace('-', '_')}"


def test_no_role_reads_or_writes_another_rooms_tables(url: str) -> None:
    roles = {role_of(workload): own for workload, own in WORKLOADS.items()}
    schemas = [owner.schema for owner in owners()]
    with psycopg.connect(plain(url)) as owner:
        found = owner.execute(MAY, (list(roles), list(roles.values()), schemas)).fetchall()
        powers = owner.execute(
            "SELECT rolname FROM pg_roles WHERE rolname LIKE 'isthmus%' AND"
            " (rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls)"
        ).fetchall()
    assert set(found) == {(role_of(workload), table, may) for workload, table, may in BEYOND}
    assert powers == []


def test_a_restored_dump_has_its_roles_again_when_it_is_migrated(url: str) -> None:
    source = make_url(url)
    restored = source.set(database=f"{source.database}_restored")
    create_database(restored.render_as_string(hide_password=False))
    socket, programs = str(source.query["host"]), postgres.binaries()

    def run(program: str, database: str | None, *options: str, given: bytes = b"") -> bytes:
        command = (str(programs / program), "-h", socket, "-U", str(source.username), "-d", str(database), *options)
        return subprocess.run(command, input=given, capture_output=True, check=True, timeout=60).stdout

    dump = run("pg_dump", source.database, "--no-privileges")
    run("psql", restored.database, "-q", "-v", "ON_ERROR_STOP=1", given=dump)
    with pytest.raises(InsufficientPrivilege), connected(restored.render_as_string(False), "orders") as connection:
        connection.execute("SELECT * FROM orders.placed_order")
    migrate(restored.render_as_string(False))
    with connected(restored.render_as_string(False), "orders") as connection:
        connection.execute("SELECT * FROM orders.placed_order")
        with pytest.raises(InsufficientPrivilege):
            connection.execute("SELECT orders.follow_payment('no-order', 'captured')")


async def test_who_comes_before_their_role_is_told_to_come_again(url: str) -> None:
    """As who comes before the database: whoever starts first is started again."""
    early = async_engine(make_url(url).set(username="isthmus_early").render_as_string(hide_password=False), pool_size=1)
    with pytest.raises(Unavailable, match="DATABASE_AWAY"):
        await require_current(early, Owner.beside(members_main.__file__))
    await early.dispose()
