"""A read replica of a mesh's database: begun as a copy, and kept one by streaming."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from signal import SIGINT
from typing import Any

import psycopg

from deploy.local import postgres
from deploy.local.settings import Home

NODE = postgres.NODES[1]
DEADLINE_S = 60.0
STOP_S = 30.0
POLL_S = 0.1


@asynccontextmanager
async def streaming(home: Home) -> AsyncIterator[None]:
    """While it runs. No commit waits for it; see `caught_up`. What it had stays below the home when it has ended."""
    await postgres.clone(home, NODE, postgres.NODES[0])
    log = home.log(NODE)
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with log.open("ab") as output:
        server = await asyncio.create_subprocess_exec(*postgres.command(home, NODE), stdout=output, stderr=output)
    try:
        await caught_up(home)
        yield
    finally:
        if server.returncode is None:
            server.send_signal(SIGINT)
        await asyncio.wait_for(server.wait(), STOP_S)


async def caught_up(home: Home) -> None:
    """Wait until the replica has replayed all that the primary has written by now."""
    [(written,)] = await rows(home, "SELECT pg_current_wal_flush_lsn()::text", postgres.NODES[0])
    ends = time.monotonic() + DEADLINE_S
    while True:
        try:
            if await rows(
                home, "SELECT 1 WHERE pg_is_in_recovery() AND pg_last_wal_replay_lsn() >= %s::pg_lsn", NODE, written
            ):
                return
        except psycopg.OperationalError:
            # It takes no connections before it is consistent.
            pass
        assert time.monotonic() < ends, f"the replica does not follow; see {home.log(NODE)}"
        await asyncio.sleep(POLL_S)


async def rows(home: Home, query: str, node: str = NODE, *values: str) -> list[tuple[Any, ...]]:
    """What the replica, or another node, answers."""
    connection = await psycopg.AsyncConnection.connect(
        host=str(home.sockets(node)), user=postgres.SUPERUSER, dbname=postgres.DATABASE, connect_timeout=5
    )
    async with connection:
        return await (await connection.execute(query, values)).fetchall()
