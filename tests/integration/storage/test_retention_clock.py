"""A clock that jumped ahead removes nothing, whichever process asks, until an operator says that it is right."""

import time
from dataclasses import replace

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege
from sqlalchemy import text

from mesh.database.engine import Database, execute
from private_core.storage.expiry import Expiry
from security.audit.removal import STEP_DAYS_MAX, ClockDisbelieved, Remover
from security.audit.store import AuditStore
from tests.integration.removing import remover
from tests.integration.room import own, plain


def believing(days: float) -> Remover:
    """A process whose clock is so many days ahead, and that goes by the limit of the mesh."""
    return replace(remover(days), step_days_max=STEP_DAYS_MAX)


@pytest.fixture
async def engine(room: Database) -> Database:
    await execute(room, text("INSERT INTO room.idempotency VALUES ('1', 'x', 'x', NULL, now() - interval '20 days')"))
    await AuditStore(room).accept_clock(time.time_ns() // 1000)
    return room


def expiry(engine: Database, remover: Remover, kept_days: int = 30) -> Expiry:
    return Expiry.of_idempotency(engine, remover, "room", age_s=kept_days * 86_400)


async def refusals(engine: Database) -> int:
    found = await execute(engine, text("SELECT count(*) FROM audit.record WHERE reason = 'RETENTION_CLOCK'"))
    return int(found[0][0])


async def test_a_clock_that_jumped_ahead_removes_nothing_and_is_on_record_once(
    engine: Database, postgres_url: str
) -> None:
    before = await refusals(engine)
    for _ in range(2):
        with pytest.raises(ClockDisbelieved, match="RETENTION_CLOCK"):
            await expiry(engine, believing(60)).round()
    # By the way of the bridge, which has a plain connection.
    with psycopg.connect(plain(postgres_url), autocommit=True) as connection, pytest.raises(ClockDisbelieved):
        believing(60).moment_by(connection)
    assert await refusals(engine) == before + 1
    # What was not believed was not remembered: the right clock goes on, and may be behind.
    assert await expiry(engine, believing(0)).round() == 0
    assert await expiry(engine, believing(-400)).round() == 0
    assert await expiry(engine, believing(0), kept_days=19).round() == 1


async def test_a_clock_goes_on_with_the_mesh_but_never_far_ahead_of_the_databases(engine: Database) -> None:
    assert await expiry(engine, believing(2)).round() == 0
    # Two more days after those are within the step, and yet too far from what PostgreSQL's clock says.
    with pytest.raises(ClockDisbelieved):
        await expiry(engine, believing(4)).round()


async def test_a_mesh_that_was_off_for_long_waits_for_an_operator(engine: Database) -> None:
    await execute(engine, text("UPDATE audit.retention_clock SET newest = now() - interval '40 days'"))
    with pytest.raises(ClockDisbelieved):
        await expiry(engine, believing(0), kept_days=19).round()
    now_us = time.time_ns() // 1000
    before_us = await AuditStore(engine).accept_clock(now_us)
    assert 39 < (now_us - before_us) / 86_400e6 < 41
    assert await expiry(engine, believing(0), kept_days=19).round() == 1


async def test_no_room_moves_what_is_believed_by_itself(engine: Database, postgres_url: str) -> None:
    with psycopg.connect(plain(own(postgres_url, "members")), autocommit=True) as connection:
        believing(0).moment_by(connection)
        with pytest.raises(InsufficientPrivilege):
            connection.execute("UPDATE audit.retention_clock SET newest = now() + interval '9 years'")
