"""Engines with a bounded pool, and the two ways to use one: a single statement, or a transaction.

Both repeat work that PostgreSQL gave up for reasons of its own (deadlock, serialisation, a connection that broke) and
turn an outage into `Unavailable`. What is repeated must come to the same when it had already happened: the rooms see to
that with idempotency records and unique keys.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, TypeVar

import psycopg
import stamina
from psycopg import errors as postgres
from sqlalchemy import Dialect, Engine, TextClause, create_engine, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from mesh.database.connections import ConnectionBroken, Connections, connector, noticing
from mesh.errors import Aborted, DeadlineExceeded, MeshError, Unavailable

T = TypeVar("T")

POOL_SIZE: Final = 5
ATTEMPTS_MAX: Final = 4
RETRY_S_MAX: Final = 3.0
STATEMENT_TIMEOUT_MS: Final = 5000
LOCK_TIMEOUT_MS: Final = 4000
CONNECT_TIMEOUT_S: Final = 3
POOL_WAIT_S: Final = 3.0

_CONTENTION: Final = (postgres.DeadlockDetected, postgres.SerializationFailure)
_AWAY: Final = (OperationalError, InterfaceError, psycopg.OperationalError, psycopg.InterfaceError)
_TOO_SLOW: Final = (postgres.QueryCanceled, postgres.LockNotAvailable)


class Database(AsyncEngine):
    """An engine for transactions, and beside it the driver's own connections for lone statements."""

    __slots__ = ("connections",)

    def __init__(self, sync_engine: Engine, connections: Connections) -> None:
        super().__init__(sync_engine)
        self.connections = connections

    async def dispose(self, close: bool = True) -> None:
        await self.connections.close()
        await super().dispose(close)


def async_engine(
    url: str, node: str = "", *, pool_size: int = POOL_SIZE, statement_timeout_ms: int = STATEMENT_TIMEOUT_MS
) -> Database:
    """An engine for asyncio. Opens no connection before the first use. `node` is shown in pg_stat_activity.

    At most `pool_size` connections for transactions and as many for lone statements.
    """
    options = _options(node, pool_size, statement_timeout_ms)
    sync_engine = create_async_engine(url, **options).sync_engine
    _, arguments = sync_engine.dialect.create_connect_args(make_url(url))
    return Database(
        sync_engine, Connections(connector(arguments | options["connect_args"]), pool_size, options["pool_timeout"])
    )


def engine(
    url: str, node: str = "", *, pool_size: int = POOL_SIZE, statement_timeout_ms: int = STATEMENT_TIMEOUT_MS
) -> Engine:
    """An engine for threads, with the same limits."""
    return create_engine(url, **_options(node, pool_size, statement_timeout_ms))


async def execute(
    engine: AsyncEngine, statement: TextClause, parameters: Mapping[str, Any] | None = None
) -> Sequence[Any]:
    """Run one statement in a transaction of its own, in one round trip. Returns its rows, if any, as named tuples."""
    assert isinstance(engine, Database), "lone statements need an engine of async_engine()"
    (sql, bound), connections = _driver_sql(statement, engine.dialect), engine.connections
    if bound and parameters:
        parameters = {**parameters, **{name: of(parameters[name]) for name, of in bound}}
    # PostgreSQL makes a lone statement a transaction by itself: no BEGIN, no COMMIT to wait for.
    return await _repeated(lambda: connections.execute(sql, parameters))


@lru_cache(maxsize=1024)
def _driver_sql(statement: TextClause, dialect: Dialect) -> tuple[str, Sequence[tuple[str, Callable[[Any], Any]]]]:
    """With the driver's placeholders for SQLAlchemy's, and what the types of its parameters do to them."""
    compiled = statement.compile(dialect=dialect)
    processors = ((name, each.type.bind_processor(dialect)) for name, each in compiled.binds.items())
    return str(compiled), [(name, processor) for name, processor in processors if processor is not None]


async def transact(engine: AsyncEngine, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    """Run `work` in one transaction: committed when it returns, rolled back when it raises."""

    async def once() -> T:
        async with engine.begin() as connection:
            return await work(connection)

    return await _repeated(once)


async def _repeated(once: Callable[[], Awaitable[T]]) -> T:
    try:
        try:
            return await once()
        except (DBAPIError, psycopg.Error) as error:
            if not _passes(error):
                raise
        retries = stamina.retry_context(
            on=_passes,
            attempts=ATTEMPTS_MAX - 1,
            timeout=RETRY_S_MAX,
            wait_initial=0.01,
            wait_max=0.2,
            wait_jitter=0.05,
        )
        async for attempt in retries:
            with attempt:
                return await once()
    except (DBAPIError, psycopg.Error, PoolTimeout) as error:
        failure = translated(error)
        if failure is None:
            raise
        raise failure from error
    raise AssertionError("stamina neither returned nor raised")


def _passes(error: Exception) -> bool:
    """Whether the same work may well succeed when it is done again."""
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or isinstance(error.orig, _CONTENTION)
    return isinstance(error, (ConnectionBroken, *_CONTENTION))


def translated(error: Exception) -> MeshError | None:
    """The outage or contention that `error` stands for; None when it is a fault of ours."""
    if isinstance(error, PoolTimeout):
        return Unavailable("DATABASE_BUSY", "all database connections are in use", remedy="try again later")
    invalidated = isinstance(error, DBAPIError) and error.connection_invalidated
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, _CONTENTION):
        return Aborted("DATABASE_CONTENTION", "others changed the same data again and again", remedy="try again")
    if isinstance(cause, _TOO_SLOW):
        return DeadlineExceeded("DATABASE_SLOW", "the database did not answer in time", remedy="try again later")
    if invalidated or isinstance(error, _AWAY):
        return Unavailable("DATABASE_AWAY", "the database cannot be reached", remedy="try again later")
    return None


def _options(node: str, pool_size: int, statement_timeout_ms: int) -> dict[str, Any]:
    session = {
        "statement_timeout": statement_timeout_ms,
        "lock_timeout": min(LOCK_TIMEOUT_MS, statement_timeout_ms),
        "idle_in_transaction_session_timeout": 10_000,
        "timezone": "UTC",
    }
    return {
        "pool_size": pool_size,
        # None above it: they would be opened and closed again and again, and each costs more than it saves.
        "max_overflow": 0,
        "pool_timeout": POOL_WAIT_S,
        "pool_recycle": 1800,
        "pool_use_lifo": True,
        # No ping before use: it would cost a round trip every time. A broken connection empties the pool and the work
        # is repeated on a fresh one.
        "pool_pre_ping": False,
        # No error and no log repeats what was bound: it may be personal.
        "hide_parameters": True,
        "connect_args": {
            "application_name": node or "isthmus",
            "connect_timeout": CONNECT_TIMEOUT_S,
            "prepare_threshold": 2,
            "options": " ".join(f"-c {name}={value}" for name, value in session.items()),
            **noticing(statement_timeout_ms / 1000),
        },
    }
