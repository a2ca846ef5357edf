"""Rows and ledger lines go when the contract says that they have been kept for long enough.

In small transactions, so that landing never waits for one. Rows of events that the contract keeps for ever are not
looked at.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import psycopg

from mesh.contract import Contract
from mesh.logs import logger
from sync_bridge.inbound.tables import Table

EVERY_S: Final = 3600.0
ROWS_PER_STEP: Final = 10_000
# Of one table in one sweep; what is left waits for the next.
STEPS_MAX: Final = 10_000
# Any number will do, as long as all workers of one database agree on it: one sweeps at a time.
ADVISORY_LOCK: Final = 4_717_318_402

# By the time of acceptance, in the order of the rows on the disk.
_DELETE: Final = """
    DELETE FROM {table} WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM {table} WHERE {column} < clock_timestamp() - make_interval(days => %s) LIMIT %s
    ))
"""


@dataclass(frozen=True, slots=True)
class Kept:
    """How many days each of the warehouse's tables keeps its rows, and the bridge its ledger: 0 is for ever."""

    days: Mapping[str, int]
    ledger_days: int


def kept(contract: Contract, tables: Mapping[str, Table]) -> Kept:
    by_topic = {event.topic: event.retention_days for event in contract.events.values()}
    days = {table.name: by_topic[topic] for topic, table in tables.items()}
    # The ledger is balanced against the rows, so its lines are kept no longer than the first of them.
    return Kept(days, min((count for count in days.values() if count), default=0))


def sweep(connection: psycopg.Connection, wanted: Kept) -> dict[str, int]:
    """Remove what is too old; returns how many rows of which table. Nothing when another worker is at it."""
    lock = connection.execute("SELECT pg_try_advisory_lock(%s)", (ADVISORY_LOCK,)).fetchone()
    if lock is None or not lock[0]:
        return {}
    removed: dict[str, int] = {}
    try:
        places = [(f"warehouse.{name}", "accepted_time", days) for name, days in wanted.days.items()]
        # Lines first: a line without its rows would not balance, rows without their line are only not counted.
        for table, column, days in [("bridge.ledger", "minute", wanted.ledger_days), *places]:
            if days:
                removed[table] = _remove(connection, _DELETE.format(table=table, column=column), days)
    finally:
        connection.execute("SELECT pg_advisory_unlock(%s)", (ADVISORY_LOCK,))
    return {table: rows for table, rows in removed.items() if rows}


def _remove(connection: psycopg.Connection, delete: str, days: int) -> int:
    total = 0
    for _ in range(STEPS_MAX):
        rows = connection.execute(delete, (days, ROWS_PER_STEP)).rowcount
        total += rows
        if rows < ROWS_PER_STEP:
            break
    return total


class Retention:
    """A service of the process: sweeps now and then."""

    def __init__(self, url: str, node: str, wanted: Kept) -> None:
        self._url = url
        self._name = f"{node}-retention"
        self._wanted = wanted
        self._task: asyncio.Task[None] | None = None
        self._log = logger("retention")

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="retention")

    async def stop(self, grace_s: float) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                removed = await asyncio.to_thread(self._sweep)
            except psycopg.Error as error:
                self._log.warning("not_swept", error=type(error).__name__)
            else:
                self._log.info("swept", **removed)

    def _sweep(self) -> dict[str, int]:
        options = "-c statement_timeout=60000 -c timezone=UTC"
        with psycopg.connect(
            self._url, autocommit=True, application_name=self._name, connect_timeout=3, options=options
        ) as connection:
            return sweep(connection, self._wanted)
