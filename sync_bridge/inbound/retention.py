"""Rows, ledger lines and what dead letters hold go when the contract says that they have been kept for long enough.

Rows go with the day on which they landed, whole: a partition is dropped. The rest goes in small transactions, so that
landing never waits for one. Each removal has its audit record. Rows of events that the contract keeps for ever are not
looked at. The days to come are made here as well.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
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

# Days that stand ready beyond today. What lands on a day that nobody has made lies apart until somebody does.
DAYS_AHEAD: Final = 2

# By the time of acceptance, in the order of the rows on the disk.
_DELETE_LINES: Final = """
    DELETE FROM bridge.ledger
    WHERE ctid = ANY(ARRAY(SELECT ctid FROM bridge.ledger WHERE minute < %(before)s LIMIT %(limit)s))
"""
# An id outlives its row: which day it says was looked at before its row's, and may be the one before.
_DELETE_IDS: Final = """
    DELETE FROM {table} WHERE event_id = ANY(ARRAY(
        SELECT event_id FROM {table} WHERE landed_day < (%(before)s AT TIME ZONE 'UTC')::date - 1 LIMIT %(limit)s
    ))
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


def open_days(connection: psycopg.Connection, names: Iterable[str]) -> None:
    """Have partitions for today and the days to come in these tables of the warehouse."""
    for name in names:
        connection.execute("SELECT warehouse.open_days(%s, clock_timestamp(), %s)", (name, DAYS_AHEAD))


def sweep(connection: psycopg.Connection, wanted: Kept, remover: Remover) -> dict[str, int]:
    """Remove what is too old; returns how many rows of which table. Nothing when another worker is at it.

    Raises ClockDisbelieved, or psycopg.Error: LockNotAvailable when a table was read for so long that a day could not
    be taken from it.
    """
    lock = connection.execute("SELECT pg_try_advisory_lock(%s)", (ADVISORY_LOCK,)).fetchone()
    if lock is None or not lock[0]:
        return {}
    removed: dict[str, int] = {}
    try:
        sweeping = _Sweep(connection, remover, remover.moment_by(connection))
        # Lines first: a line without its rows would not balance, rows without their line are only not counted.
        if wanted.ledger_days:
            removed["bridge.ledger"] = sweeping.remove("bridge.ledger", _DELETE_LINES, wanted.ledger_days)
        for name, days in wanted.days.items():
            if days:
                removed[f"warehouse.{name}"] = sweeping.drop_days(name, days)
                ids = f"warehouse.{name}_id"
                removed[ids] = sweeping.remove(ids, _DELETE_IDS.format(table=ids), days)
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

    def drop_days(self, name: str, days: int) -> int:
        """Take the days that ended so many days ago from a table of the warehouse; returns how many rows they had."""
        total = 0
        before = self._before(days)
        for _ in range(STEPS_MAX):
            with self.connection.transaction():
                found = self.connection.execute("SELECT day, landed FROM warehouse.drop_day(%s, %s)", (name, before))
                ((day, rows),) = found.fetchall()
                if rows:
                    record = self.remover.record(f"warehouse.{name}", rows, how=f"landed on {day}")
                    self.connection.execute(INSERT, parameters([record]))
            if day is None:
                break
            total += rows
        return total

    def _before(self, days: int) -> datetime:
        return datetime.fromtimestamp(self.moment.before_us(days) / 1e6, UTC)

    def remove(self, place: str, delete: str, days: int, **values: str) -> int:
        total = 0
        before = self._before(days)
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
        # Days are opened at once: a mesh that was off for long has none.
        await self._at_work(lambda _: {})
        while True:
            await asyncio.sleep(EVERY_S)
            await self._at_work(lambda connection: sweep(connection, self._wanted, self._remover))

    async def _at_work(self, work: Callable[[psycopg.Connection], dict[str, int]]) -> None:
        try:
            removed = await asyncio.to_thread(self._connected, work)
        except (psycopg.Error, MeshError) as error:
            self._log.warning("not_swept", error=type(error).__name__)
        else:
            self._log.info("swept", **removed)

    def _connected(self, work: Callable[[psycopg.Connection], dict[str, int]]) -> dict[str, int]:
        options = "-c statement_timeout=60000 -c timezone=UTC"
        with psycopg.connect(
            self._url, autocommit=True, application_name=self._name, connect_timeout=3, options=options
        ) as connection:
            open_days(connection, self._wanted.days)
            return work(connection)
