"""Engines: bounded, patient with what passes, plain about what does not."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest
from psycopg import errors as postgres
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh.database.engine import Database, async_engine, execute, transact
from mesh.errors import Aborted, DeadlineExceeded, Unavailable


@pytest.fixture
async def engine(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    engine = async_engine(postgres_url, "orders-1", pool_size=2, statement_timeout_ms=500)
    yield engine
    await engine.dispose()


async def test_a_session_says_whose_it_is_and_has_a_limit(engine: AsyncEngine) -> None:
    row = (
        await execute(
            engine,
            text("SELECT current_setting('application_name') AS name, current_setting('statement_timeout') AS ms"),
        )
    )[0]
    assert tuple(row) == ("orders-1", "500ms")


async def test_a_server_that_goes_without_a_word_is_found_out_in_seconds(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert isinstance(driver, psycopg.AsyncConnection)
        said = driver.info.get_parameters()
    silent_s = int(said["keepalives_idle"]) + int(said["keepalives_interval"]) * int(said["keepalives_count"])
    assert silent_s <= 15
    # A statement under way ends with its own limit.
    assert said["tcp_user_timeout"] == "500"


async def test_no_more_connections_than_the_pool(engine: AsyncEngine) -> None:
    await asyncio.gather(*(execute(engine, text("SELECT pg_sleep(0.02)")) for _ in range(40)))
    count = text("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'orders-1'")
    assert (await execute(engine, count))[0][0] <= 2


async def test_a_statement_that_takes_too_long_is_a_deadline(engine: AsyncEngine) -> None:
    with pytest.raises(DeadlineExceeded) as late:
        await execute(engine, text("SELECT pg_sleep(2)"))
    assert late.value.reason == "DATABASE_SLOW"


async def test_a_broken_connection_is_replaced_without_notice(engine: AsyncEngine) -> None:
    ((pid,),) = await execute(engine, text("SELECT pg_backend_pid()"))
    killer = async_engine(str(engine.url.render_as_string(hide_password=False)), "killer", pool_size=1)
    await execute(killer, text("SELECT pg_terminate_backend(:pid, 2000)"), {"pid": pid})
    await killer.dispose()
    ((other,),) = await execute(engine, text("SELECT pg_backend_pid()"))
    assert other != pid


async def test_a_caller_who_leaves_in_the_middle_leaves_the_pool_whole(engine: AsyncEngine) -> None:
    for _ in range(10):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await execute(engine, text("SELECT pg_sleep(0.3)"))
    assert isinstance(engine, Database)
    assert engine.connections.in_use == 0
    assert (await execute(engine, text("SELECT 1")))[0][0] == 1


async def test_a_database_that_is_away_is_unavailable(tmp_path: Path) -> None:
    engine = async_engine(f"postgresql+psycopg://postgres@/none?host={tmp_path}", "orders-1")
    with pytest.raises(Unavailable) as away:
        await execute(engine, text("SELECT 1"))
    assert away.value.reason == "DATABASE_AWAY"
    await engine.dispose()


async def test_contention_is_tried_again_and_then_told(engine: AsyncEngine) -> None:
    tries: list[int] = []

    async def lose(connection: AsyncConnection) -> None:
        tries.append(1)
        raise DBAPIError("statement", None, postgres.SerializationFailure())

    with pytest.raises(Aborted) as lost:
        await transact(engine, lose)
    assert lost.value.reason == "DATABASE_CONTENTION"
    assert len(tries) == 4


async def test_deadlocked_transactions_both_come_through(engine: AsyncEngine) -> None:
    await execute(engine, text("CREATE TABLE IF NOT EXISTS pair AS SELECT id, 0 AS n FROM generate_series(1, 2) AS id"))
    met = asyncio.Barrier(2)
    first_time = {1, 2}

    async def both(first: int, second: int) -> None:
        async def work(connection: AsyncConnection) -> None:
            add = text("UPDATE pair SET n = n + 1 WHERE id = :id")
            await connection.execute(text("SET LOCAL statement_timeout = '4s'"))
            await connection.execute(text("SET LOCAL deadlock_timeout = '50ms'"))
            await connection.execute(add, {"id": first})
            if first in first_time:
                first_time.discard(first)
                await met.wait()
            await connection.execute(add, {"id": second})

        await transact(engine, work)

    await asyncio.gather(both(1, 2), both(2, 1))
    assert [tuple(row) for row in await execute(engine, text("SELECT n FROM pair ORDER BY id"))] == [(2,), (2,)]
