"""Lets idempotency records go once nobody can still be repeating the call. An open record stays: it stands for work."""

import asyncio
import contextlib
from datetime import timedelta
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.database.engine import execute
from mesh.errors import MeshError
from mesh.logs import logger

INTERVAL_S: Final = 600.0
_BATCH: Final = 1000
_BATCHES_MAX: Final = 1000

# For the migration of a room whose records expire: rows lie in the order of their time, so the index stays tiny.
CREATE_INDEX: Final = "CREATE INDEX idempotency_age ON {schema}.idempotency USING brin (created_time)"


class IdempotencyExpiry:
    """A service of a room's process. Harmless in several replicas at once."""

    def __init__(self, engine: AsyncEngine, schema: str, age_s: float, interval_s: float = INTERVAL_S) -> None:
        table = f'"{schema}".idempotency'
        self._engine = engine
        self._age = timedelta(seconds=age_s)
        self._interval_s = interval_s
        self._delete = text(
            f"DELETE FROM {table} WHERE intent = ANY(ARRAY("  # noqa: S608
            f"SELECT intent FROM {table} WHERE created_time < now() - CAST(:age AS interval)"
            " AND (answer IS NOT NULL OR refusal IS NOT NULL) LIMIT :limit FOR UPDATE SKIP LOCKED"
            ")) RETURNING 1 AS gone"
        )
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._log = logger("expiry")

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="idempotency-expiry")

    async def stop(self, grace_s: float) -> None:
        self._stopping.set()
        if self._task is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._task

    async def round(self) -> int:
        """Let everything go that is old enough. Gives how many. Raises MeshError."""
        gone = 0
        for _ in range(_BATCHES_MAX):
            rows = await execute(self._engine, self._delete, {"age": self._age, "limit": _BATCH})
            gone += len(rows)
            if len(rows) < _BATCH:
                break
        return gone

    async def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                await self.round()
            except MeshError as error:
                self._log.warning("idempotency records wait", reason=error.reason)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._stopping.wait()
