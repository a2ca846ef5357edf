"""Lets rows go that have been kept for long enough, in small transactions, each with its audit record.

Of idempotency records an open one stays: it stands for work.
"""

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh.database.engine import transact
from mesh.rounds import Rounds
from private_core.times import to_datetime
from security.audit.removal import Remover
from security.audit.transactional import record

INTERVAL_S: Final = 600.0
_BATCH: Final = 1000
_BATCHES_MAX: Final = 1000
_ANSWERED: Final = " AND (answer IS NOT NULL OR refusal IS NOT NULL)"

# For the migration of a room whose records expire: rows lie in the order of their time, so the index stays tiny.
CREATE_INDEX: Final = "CREATE INDEX idempotency_age ON {schema}.idempotency USING brin (created_time)"


class Expiry:
    """Of one table; harmless in several replicas at once."""

    def __init__(
        self, engine: AsyncEngine, remover: Remover, table: str, key: str, column: str, days: float, only: str = ""
    ) -> None:
        """column: since when a row has not been of use. days: 0 is for ever. only: `AND` a further condition."""
        self._engine = engine
        self._remover = remover
        self._table = table
        self._days = days
        self._delete = text(
            f"DELETE FROM {table} WHERE {key} = ANY(ARRAY("  # noqa: S608
            f"SELECT {key} FROM {table} WHERE {column} < :before{only} LIMIT :limit FOR UPDATE SKIP LOCKED"
            "))"
        )

    @classmethod
    def of_idempotency(cls, engine: AsyncEngine, remover: Remover, schema: str, age_s: float) -> "Expiry":
        """Of the idempotency records of a room: they go once nobody can still be repeating the call."""
        days = timedelta(seconds=age_s) / timedelta(days=1)
        return cls(engine, remover, f"{schema}.idempotency", "intent", "created_time", days, _ANSWERED)

    def rounds(self) -> Rounds:
        """The service that does it."""
        return Rounds(f"{self._table}-expiry", self.round, INTERVAL_S)

    async def round(self) -> int:
        """Let everything go that is old enough. Gives how many rows. Raises MeshError."""
        if not self._days:
            return 0
        before = to_datetime((await self._remover.moment(self._engine)).before_us(self._days))
        gone = 0
        for _ in range(_BATCHES_MAX):
            rows = await transact(self._engine, lambda connection: self._step(connection, before))
            gone += rows
            if rows < _BATCH:
                break
        return gone

    async def _step(self, connection: AsyncConnection, before: datetime) -> int:
        rows = (await connection.execute(self._delete, {"before": before, "limit": _BATCH})).rowcount
        if rows:
            await record(connection, self._remover.record(self._table, rows))
        return rows
