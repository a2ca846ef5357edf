"""Rows, ledger lines and what dead letters hold go when the contract says that they have been kept for long enough.

In small transactions, so that landing never waits for one, each with its audit record. Rows of events that the contract
keeps for ever are not looked at.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import psycopg

from mesh.contract import Contract
from mesh.contract.model import DataClass
from mesh.errors import MeshError
from mesh.logs import logger
from security.audit.postgres import INSERT, parameters
from security.audit.removal import Moment, Remover
from sync_bridge.inbound.tables import Table
from sync_bridge.ledger.settlement import EMPTY

EVERY_S: Final = 3600.0
ROWS_PER_STEP: Final = 10_000
# Of one table in one sweep; what is left waits for the next.
STEPS_MAX: Final = 10_000
# Any number will do, as long as all workers of one database agree on it: one sweeps at a time.
ADVISORY_LOCK: Final = 4_717_318_402

LETTERS: Final = "bridge.dead_letter"

# By the time of acceptance, in the order of the rows on the disk.
_DELETE: Final = """
    DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {table} WHERE {column} < %(before)s LIMIT %(limit)s))
"""


@dataclass(frozen=True, slots=True)
class Kept:
    """How many days each of the warehouse's tables keeps its rows, and the bridge its ledger: 0 is for ever."""

    days: Mapping[str, int]
    ledger_days: int
    # What letters of each inward topic hold, and what those hold that were stopped on their way out: of any class.
    letters: Mapping[str, int] = field(default_factory=dict)
    stopped_days: int = 0


def kept(contract: Contract, tables: Mapping[str, Table]) -> Kept:
    by_topic = {event.topic: event.retention_days for event in contract.events.values()}
    days = {table.name: by_topic[topic] for topic, table in tables.items()}
    # The ledger is balanced against the rows, so its lines are kept no longer than the first of them.
    ledger_days = min((count for count in days.values() if count), default=0)
    letters = {topic: by_topic[topic] for topic in tables}
    return Kept(days, ledger_days, letters, contract.kept_days[DataClass.SECRET])


def sweep(connection: psycopg.Connection, wanted: Kept, remover: Remover) -> dict[str, int]:
    """Remove what is too old; returns how many rows of which table. Nothing when another worker is at it.

    Raises ClockDisbelieved, or psycopg.Error.
    """
    lock = connection.execute("SELECT pg_try_advisory_lock(%s)", (ADVISORY_LOCK,)).fetchone()
    if lock is None or not lock[0]:
        return {}
    removed: dict[str, int] = {}
    try:
        sweeping = _Sweep(connection, remover, remover.moment_by(connection))
        places = [(f"warehouse.{name}", "accepted_time", days) for name, days in wanted.days.items()]
        # Lines first: a line without its rows would not balance, rows without their line are only not counted.
        for table, column, days in [("bridge.ledger", "minute", wanted.ledger_days), *places]:
            if days:
                removed[table] = sweeping.remove(table, _DELETE.format(table=table, column=column), days)
        # No letter is of every age: those of each topic, and those that were stopped.
        for topic, days in [*wanted.letters.items(), ("", wanted.stopped_days)]:
            if days:
                done = sweeping.remove(LETTERS, EMPTY, days, topic=topic)
                removed[LETTERS] = removed.get(LETTERS, 0) + done
    finally:
        connection.execute("SELECT pg_advisory_unlock(%s)", (ADVISORY_LOCK,))
    return {table: rows for table, rows in removed.items() if rows}


@dataclass(frozen=True, slots=True)
class _Sweep:
    connection: psycopg.Connection
    remover: Remover
    moment: Moment

    def remove(self, place: str, delete: str, days: int, **values: str) -> int:
        total = 0
        before = datetime.fromtimestamp(self.moment.before_us(days) / 1e6, UTC)
        for _ in range(STEPS_MAX):
            with self.connection.transaction():
                rows = self.connection.execute(delete, {"before": before, "limit": ROWS_PER_STEP, **values}).rowcount
                if rows:
                    self.connection.execute(INSERT, parameters([self.remover.record(place, rows)]))
            total += rows
            if rows < ROWS_PER_STEP:
                break
        return total


class Retention:
    """A service of the process: sweeps now and then."""

    def __init__(self, url: str, wanted: Kept, remover: Remover) -> None:
        self._url = url
        self._name = f"{remover.settings.node}-retention"
        self._remover = remover
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
            except (psycopg.Error, MeshError) as error:
                self._log.warning("not_swept", error=type(error).__name__)
            else:
                self._log.info("swept", **removed)

    def _sweep(self) -> dict[str, int]:
        options = "-c statement_timeout=60000 -c timezone=UTC"
        with psycopg.connect(
            self._url, autocommit=True, application_name=self._name, connect_timeout=3, options=options
        ) as connection:
            return sweep(connection, self._wanted, self._remover)
