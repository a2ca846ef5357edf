"""Lets idempotency records go once nobody can still be repeating the call. An open record stays: it stands for work."""

from datetime import timedelta
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.database.engine import execute
from mesh.rounds import Rounds

INTERVAL_S: Final = 600.0
_BATCH: Final = 1000
_BATCHES_MAX: Final = 1000

# For the migration of a room whose records expire: rows lie in the order of their time, so the index stays tiny.
CREATE_INDEX: Final = "CREATE INDEX idempotency_age ON {schema}.idempotency USING brin (created_time)"


class IdempotencyExpiry:
    """Harmless in several replicas at once."""

    def __init__(self, engine: AsyncEngine, schema: str, age_s: float) -> None:
        table = f'"{schema}".idempotency'
        self._engine = engine
        self._age = timedelta(seconds=age_s)
        self._delete = text(
            f"DELETE FROM {table} WHERE intent = ANY(ARRAY("  # noqa: S608
            f"SELECT intent FROM {table} WHERE created_time < now() - CAST(:age AS interval)"
            " AND (answer IS NOT NULL OR refusal IS NOT NULL) LIMIT :limit FOR UPDATE SKIP LOCKED"
            ")) RETURNING 1 AS gone"
        )

    def rounds(self) -> Rounds:
        """The service that does it."""
        return Rounds("idempotency-expiry", self.round, INTERVAL_S)

    async def round(self) -> int:
        """Let everything go that is old enough. Gives how many. Raises MeshError."""
        gone = 0
        for _ in range(_BATCHES_MAX):
            rows = await execute(self._engine, self._delete, {"age": self._age, "limit": _BATCH})
            gone += len(rows)
            if len(rows) < _BATCH:
                break
        return gone
