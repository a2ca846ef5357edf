"""The audit log in PostgreSQL: one writer per process, one commit for all records that wait."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

import msgspec
from psycopg import AsyncConnection as Driver
from psycopg import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh.database.migrate import Owner, require_current
from mesh.logs import logger
from security.audit.port import AuditUnavailable
from security.audit.record import AuditRecord

PENDING_MAX: Final = 10_000
BATCH_MAX: Final = 2_500
# From so many records on, COPY's two round trips cost less than reading them from JSON.
COPIED_MIN: Final = 100
# How long a record that nobody waits for may wait for others.
LINGER_S: Final = 0.2
# A write that takes longer has failed; it is repeated, and stays one record by its id.
WRITE_S_MAX: Final = 3.0
_BACKOFF_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0)

_NAMES: Final = (
    "record_id, time_us, peer, token_subject, token_client, method, data_subject, decision, result, reason, trace_id,"
    " workload, node"
)


def recorded(rows: str, of: str = "") -> str:
    """The statement that adds records. rows: the placeholder of what `parameters` gives; of: what to join them with.

    A batch is one parameter: the driver takes longer over an array of each column than PostgreSQL over the JSON.
    """
    return f"""
        INSERT INTO audit.record ({_NAMES}, leaf_hash)
        SELECT {_NAMES}, decode(leaf_hash, 'hex')
        FROM json_to_recordset({rows}) AS audited (
            record_id uuid, time_us bigint, peer text, token_subject text, token_client text, method text,
            data_subject text, decision smallint, result text, reason text, trace_id text, workload text, node text,
            leaf_hash text
        ){of}
        ON CONFLICT (record_id) DO NOTHING
        """  # noqa: S608


INSERT: Final = recorded("%(rows)s::json")
COPY: Final = f"COPY audit.record ({_NAMES}, leaf_hash) FROM STDIN"
_COLUMNS: Final = AuditRecord.__struct_fields__
_encode: Final = msgspec.json.Encoder().encode
_values: Final = attrgetter(*_COLUMNS)
# One record in COPY's text format: columns parted by tabs, what would be read as more than text behind a backslash.
_LINE: Final = "\t".join("%d" if name in ("time_us", "decision") else "%s" for name in _COLUMNS)
_TABS: Final = _LINE.count("\t")
_ESCAPES: Final = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_COPIED_AT_ONCE: Final = 500


@dataclass(slots=True)
class _Pending:
    record: AuditRecord
    durable: asyncio.Future[None] | None


class PostgresAuditSink:
    """An `AuditSink`, and a service of the process: start it before the server, stop it after.

    engine: the sink's own, so that no busy room keeps a record waiting for a connection. One connection is enough.
    """

    def __init__(
        self, engine: AsyncEngine, *, pending_max: int = PENDING_MAX, write_s_max: float = WRITE_S_MAX
    ) -> None:
        self._engine = engine
        self._pending_max = pending_max
        self._write_s_max = write_s_max
        self._pending: deque[_Pending] = deque()
        self._arrived = asyncio.Event()
        self._urgent = asyncio.Event()
        self._failures = 0
        self._stopping = False
        self._connection: AsyncConnection | None = None
        self._writer: asyncio.Task[None] | None = None
        self._log = logger("audit")

    async def start(self) -> None:
        """Begin to write. Raises when the log cannot be reached: a service that cannot be audited must not start."""
        await require_current(self._engine, Owner.beside(__file__))
        # Before the first call, so that none pays for it.
        await self._driver()
        self._writer = asyncio.create_task(self._write(), name="audit-writer")

    async def stop(self, grace_s: float) -> None:
        """Write what still waits, for at most `grace_s`."""
        self._stopping = True
        self._arrived.set()
        self._urgent.set()
        if self._writer is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._writer
            if not self._writer.done():
                self._writer.cancel()
        if self._pending:
            self._log.error("audit records lost at stop", records=len(self._pending))
        if self._connection is not None:
            await self._connection.close()
        await self._engine.dispose()

    def require_open(self) -> None:
        if self._failures or self._writer is None or self._writer.done():
            raise AuditUnavailable

    async def append(self, record: AuditRecord) -> None:
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._take(_Pending(record, durable))
        self._urgent.set()
        await durable

    def enqueue(self, record: AuditRecord) -> None:
        self._take(_Pending(record, None))

    def _take(self, pending: _Pending) -> None:
        if len(self._pending) >= self._pending_max or self._writer is None or self._writer.done():
            raise AuditUnavailable
        self._pending.append(pending)
        self._arrived.set()

    async def _write(self) -> None:
        while self._pending or not self._stopping:
            await self._arrived.wait()
            if not self._urgent.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LINGER_S):
                        await self._urgent.wait()
            batch = [self._pending.popleft() for _ in range(min(len(self._pending), BATCH_MAX))]
            if not self._pending and not self._stopping:
                self._arrived.clear()
                self._urgent.clear()
            if batch:
                await self._write_batch(batch)

    async def _write_batch(self, batch: list[_Pending]) -> None:
        records = [pending.record for pending in batch]
        try:
            async with asyncio.timeout(self._write_s_max):
                await self._put(records)
        except Exception as error:
            # Whoever waits is refused now. The records stay: what they tell has happened, and is written in time.
            self._log.error("audit write failed", error=type(error).__name__, records=len(batch))
            for pending in batch:
                if pending.durable is not None and not pending.durable.done():
                    pending.durable.set_exception(AuditUnavailable())
            self._pending.extendleft(reversed(batch))
            self._arrived.set()
            self._urgent.set()
            backoff_s = _BACKOFF_S[min(self._failures, len(_BACKOFF_S) - 1)]
            self._failures += 1
            await self._hang_up()
            await asyncio.sleep(backoff_s)
            return
        self._failures = 0
        for pending in batch:
            if pending.durable is not None and not pending.durable.done():
                pending.durable.set_result(None)

    async def _put(self, records: Sequence[AuditRecord]) -> None:
        held = self._connection is not None
        try:
            driver = await self._driver()
            # COPY takes no record for the second time; what may be there already goes the other way.
            if len(records) >= COPIED_MIN and not self._failures:
                await _copy(driver, records)
            else:
                await driver.execute(INSERT, parameters(records))
        except OperationalError:
            if not held or not driver.closed:
                raise
            # It had worked, and broke since: the server was away and may long be back.
            await self._hang_up()
            driver = await self._driver()
            await driver.execute(INSERT, parameters(records))

    async def _driver(self) -> Driver[Any]:
        """The driver's own connection, held as long as it works: this is on the path of every call."""
        if self._connection is None:
            connection = await self._engine.connect()
            # One statement is a transaction by itself: no BEGIN, no COMMIT to wait for.
            self._connection = await connection.execution_options(isolation_level="AUTOCOMMIT")
        driver = (await self._connection.get_raw_connection()).driver_connection
        assert isinstance(driver, Driver)
        return driver

    async def _hang_up(self) -> None:
        """Drop a connection that may be broken."""
        connection, self._connection = self._connection, None
        if connection is not None:
            # Whatever is wrong with it is known, and must not end the writer.
            with contextlib.suppress(Exception):
                await connection.invalidate()
                await connection.close()


async def _copy(driver: Driver[Any], records: Sequence[AuditRecord]) -> None:
    async with driver.cursor() as cursor, cursor.copy(COPY) as copy:
        for first in range(0, len(records), _COPIED_AT_ONCE):
            await copy.write(copied(records[first : first + _COPIED_AT_ONCE]))


def copied(records: Sequence[AuditRecord]) -> bytes:
    """The records in COPY's text format, each with its leaf hash."""
    return b"".join(map(_line, records))


def _line(record: AuditRecord) -> bytes:
    values = _values(record)
    line = _LINE % values
    if "\\" in line or "\n" in line or "\r" in line or line.count("\t") != _TABS:
        line = _LINE % tuple(value.translate(_ESCAPES) if isinstance(value, str) else value for value in values)
    return f"{line}\t\\\\x{record.leaf_hash().hex()}\n".encode()


def parameters(records: Sequence[AuditRecord]) -> dict[str, str]:
    """The parameters of INSERT."""
    rows = [
        {name: getattr(record, name) for name in _COLUMNS} | {"leaf_hash": record.leaf_hash().hex()}
        for record in records
    ]
    return {"rows": _encode(rows).decode()}
