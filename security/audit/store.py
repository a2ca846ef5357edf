"""Reading the audit log."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import BigInteger, Column, LargeBinary, MetaData, SmallInteger, Table, Text, Uuid, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh.database.engine import transact
from security.audit.record import AuditRecord, Decision

_TEXTS: Final = (
    "peer",
    "token_subject",
    "token_client",
    "method",
    "data_subject",
    "result",
    "reason",
    "trace_id",
    "workload",
    "node",
)
RECORD: Final = Table(
    "record",
    MetaData(schema="audit"),
    Column("sequence", BigInteger, primary_key=True),
    Column("record_id", Uuid),
    Column("time_us", BigInteger),
    Column("decision", SmallInteger),
    Column("leaf_hash", LargeBinary),
    *(Column(name, Text) for name in _TEXTS),
)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which records; "" and None: any."""

    after_sequence: int = 0
    method: str = ""
    token_subject: str = ""
    data_subject: str = ""
    decision: Decision | None = None


@dataclass(frozen=True, slots=True)
class StoredRecord:
    sequence: int
    record: AuditRecord
    leaf_hash: bytes


class AuditStore:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def list(self, selection: Selection, limit: int) -> Sequence[StoredRecord]:
        """At most `limit` records in the order in which they were written."""
        newest = await transact(self._engine, newest_sequence)
        query = select(RECORD).where(RECORD.c.sequence > selection.after_sequence, RECORD.c.sequence <= newest)
        for name in ("method", "token_subject", "data_subject"):
            if wanted := getattr(selection, name):
                query = query.where(RECORD.c[name] == wanted)
        if selection.decision is not None:
            query = query.where(RECORD.c.decision == int(selection.decision))
        query = query.order_by(RECORD.c.sequence).limit(limit)

        async def work(connection: AsyncConnection) -> Sequence[StoredRecord]:
            return [_stored(row) for row in (await connection.execute(query)).mappings()]

        return await transact(self._engine, work)


async def newest_sequence(connection: AsyncConnection) -> int:
    """The newest sequence number below which nothing is still to come: waits for the writers of this moment."""
    await connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('audit.record', 0))"))
    return int((await connection.execute(select(func.coalesce(func.max(RECORD.c.sequence), 0)))).scalar_one())


def _stored(row: Any) -> StoredRecord:
    record = AuditRecord(
        record_id=row["record_id"].hex,
        time_us=row["time_us"],
        decision=Decision(row["decision"]),
        **{name: row[name] for name in _TEXTS},
    )
    return StoredRecord(row["sequence"], record, bytes(row["leaf_hash"]))
