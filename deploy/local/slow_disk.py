"""A database whose disk takes its time: every flush of the log, and with it every commit, waits so much longer.

By PostgreSQL's own commit_delay (with commit_siblings at 0, it is kept also where nobody else commits): it comes before
the flush, as a slow disk would make it last. What is read comes from memory on one machine, and is as quick as ever.
"""

import contextlib
from typing import Final

import psycopg

from deploy.local import postgres
from deploy.local.settings import Home

# PostgreSQL's bound.
MS_MAX: Final = 100
SETTINGS: Final = ("commit_delay", "commit_siblings")


async def slow(home: Home, node: str, ms: float) -> None:
    """Raises whatever psycopg raises where the node does not answer."""
    async with await postgres.connect(home, node) as connection:
        # Statements of a server's settings take no parameters.
        await connection.execute(f"ALTER SYSTEM SET commit_delay = {int(ms * 1000)}".encode())
        await connection.execute(b"ALTER SYSTEM SET commit_siblings = 0")
        await connection.execute(b"SELECT pg_reload_conf()")


async def quick(home: Home, node: str) -> None:
    """As it was. One that is away, or a copy by now, is made anew without it (replication.py)."""
    with contextlib.suppress(psycopg.Error, OSError):
        async with await postgres.connect(home, node) as connection:
            for name in SETTINGS:
                await connection.execute(f"ALTER SYSTEM RESET {name}".encode())
            await connection.execute(b"SELECT pg_reload_conf()")
