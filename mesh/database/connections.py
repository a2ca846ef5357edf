"""The driver's own connections, for statements that are a transaction by themselves: no ORM, no BEGIN, no reset.

SQLAlchemy's way for such a statement (check out, switch to AUTOCOMMIT, compile, wrap the result, reset, check in) goes
seven times through a greenlet and costs three times what the driver needs. On the path of every call that was most of
what a room did.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import namedtuple_row

from mesh.errors import Unavailable

Driver = psycopg.AsyncConnection[Any]
# A server that is replaced behind a proxy is found in time.
_AGE_S_MAX: Final = 1800.0


def noticing(statement_s_max: float) -> dict[str, Any]:
    """libpq's settings by which a server that went without a word (its machine, or a firewall's state) is found out: a
    statement that nobody acknowledges ends when its time is over, an idle connection within some ten seconds. Without
    them the kernel waits for minutes, or hours. For TCP; of a Unix socket the kernel knows when the other end is gone.
    """
    return {
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": int(statement_s_max * 1000),
    }


class ConnectionBroken(psycopg.OperationalError):
    """A connection that had worked broke under the statement, whose outcome is not known."""


class Connections:
    """At most `size` connections, opened when needed and kept; the last one used is used first. One event loop."""

    def __init__(self, connect: Callable[[], Awaitable[Driver]], size: int, wait_s: float) -> None:
        self._connect = connect
        self._idle: deque[tuple[float, Driver]] = deque()
        self._free = asyncio.Semaphore(size)
        self._wait_s = wait_s
        # Statements that run at this moment.
        self.in_use = 0

    async def execute(self, sql: str, parameters: Mapping[str, Any] | None) -> Sequence[Any]:
        """Run one statement; its rows, as named tuples. Raises psycopg.Error; Unavailable when all are in use."""
        if self._free.locked():
            try:
                async with asyncio.timeout(self._wait_s):
                    await self._free.acquire()
            except TimeoutError:
                raise Unavailable(
                    "DATABASE_BUSY", "all database connections are in use", remedy="try again later"
                ) from None
        else:
            await self._free.acquire()
        self.in_use += 1
        try:
            return await self._run(sql, parameters)
        finally:
            self.in_use -= 1
            self._free.release()

    async def close(self) -> None:
        while self._idle:
            await self._idle.popleft()[1].close()

    async def _run(self, sql: str, parameters: Mapping[str, Any] | None) -> Sequence[Any]:
        opened, connection = await self._open()
        kept = False
        try:
            cursor = connection.cursor()
            await cursor.execute(sql, parameters)
            rows = await cursor.fetchall() if cursor.description else ()
            kept = True
            return rows
        except psycopg.Error as error:
            if connection.closed:
                # The others broke with it, as a rule: the server went away.
                await self.close()
                raise ConnectionBroken(str(error)) from error
            # An error of the statement leaves the connection as it was.
            kept = connection.info.transaction_status is TransactionStatus.IDLE
            raise
        finally:
            if kept:
                self._idle.append((opened, connection))
            else:
                await connection.close()

    async def _open(self) -> tuple[float, Driver]:
        now = time.monotonic()
        while self._idle:
            opened, connection = self._idle.pop()
            if not connection.closed and now - opened < _AGE_S_MAX:
                return opened, connection
            await connection.close()
        return now, await self._connect()


def connector(arguments: Mapping[str, Any]) -> Callable[[], Awaitable[Driver]]:
    """Opens connections that commit each statement by itself."""

    async def connect() -> Driver:
        return await psycopg.AsyncConnection.connect(**arguments, autocommit=True, row_factory=namedtuple_row)

    return connect
