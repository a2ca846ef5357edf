"""Transactions on the schema `oauth`: synchronous, as Authlib's core is."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from mesh.database.engine import translated

CONNECT_ATTEMPTS_MAX = 3


class Transactions:
    """Call it from a thread. Raises mesh.errors types when PostgreSQL is away or busy."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """One transaction: committed at the end of the block, undone by an exception."""
        try:
            with self._connected() as connection, connection.begin():
                yield connection
        except (DBAPIError, PoolTimeout) as error:
            failure = translated(error)
            if failure is None:
                raise
            raise failure from error

    def _connected(self) -> Connection:
        """A connection that answers: PostgreSQL may have restarted since the pool last used it."""
        for _ in range(CONNECT_ATTEMPTS_MAX - 1):
            connection = self._engine.connect()
            try:
                connection.execute(text("SELECT 1"))
                connection.rollback()
            except DBAPIError as error:
                connection.close()
                if not error.connection_invalidated:
                    raise
            else:
                return connection
        return self._engine.connect()
