"""Reading the audit log."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    LargeBinary,
    MetaData,
    RowMapping,
    Select,
    SmallInteger,
    Table,
    Text,
    Uuid,
    func,
    select,
    text,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh.database.engine import execute, transact
from mesh.errors import DataLoss
from security.audit.merkle import HASH_BYTES, CompactRange, growth_proof, tree
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


LEAF: Final = Table(
    "leaf",
    RECORD.metadata,
    Column("leaf_index", BigInteger, primary_key=True),
    Column("record_sequence", BigInteger),
    Column("leaf_hash", LargeBinary),
)
CHECKPOINT: Final = Table(
    "checkpoint",
    RECORD.metadata,
    Column("tree_size", BigInteger, primary_key=True),
    Column("time_us", BigInteger),
    Column("subtrees", LargeBinary),
    Column("note", Text),
)
REMOVAL: Final = Table(
    "removal",
    RECORD.metadata,
    Column("sequence", BigInteger, primary_key=True),
    Column("first_leaf", BigInteger),
    Column("end_leaf", BigInteger),
    Column("note", Text),
)
REMOVED: Final = Table(
    "removed",
    RECORD.metadata,
    Column("leaf_index", BigInteger, primary_key=True),
    Column("removal", BigInteger),
)
COSIGNATURE: Final = Table(
    "cosignature",
    RECORD.metadata,
    Column("tree_size", BigInteger, primary_key=True),
    Column("witness", Text, primary_key=True),
    Column("line", Text),
)
_COSIGNATURES: Final = (
    select(func.string_agg(COSIGNATURE.c.line, text("''")))
    .where(COSIGNATURE.c.tree_size == CHECKPOINT.c.tree_size)
    .scalar_subquery()
)
# The note with what witnesses have signed below it.
_COSIGNED_NOTE: Final = CHECKPOINT.c.note.concat(func.coalesce(_COSIGNATURES, "")).label("note")
_KEEP_COSIGNATURE: Final = text(
    "INSERT INTO audit.cosignature (tree_size, witness, line) VALUES (:size, :witness, :line) ON CONFLICT DO NOTHING"
)
_ACCEPT: Final = text(
    """
    UPDATE audit.retention_clock SET newest = to_timestamp(CAST(:now_us AS bigint) / 1e6), refused = NULL
    FROM (SELECT newest FROM audit.retention_clock) AS was
    RETURNING CAST(extract(epoch FROM was.newest) * 1e6 AS bigint) AS before_us
    """
)
_LEAVES_PAGE: Final = 10_000
_RECORDS: Final = select(RECORD, LEAF.c.leaf_index).outerjoin(LEAF, LEAF.c.record_sequence == RECORD.c.sequence)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which records; "", 0 and None: any. Times in microseconds, from (with) and to (without)."""

    after_sequence: int = 0
    method: str = ""
    token_subject: str = ""
    data_subject: str = ""
    decision: Decision | None = None
    peer: str = ""
    trace_id: str = ""
    from_time_us: int = 0
    to_time_us: int = 0
    before_sequence: int = 0
    newest_first: bool = False


@dataclass(frozen=True, slots=True)
class StoredRecord:
    sequence: int
    record: AuditRecord
    leaf_hash: bytes
    # None: waits for its leaf.
    leaf_index: int | None = None


@dataclass(frozen=True, slots=True)
class RemovedLeaf:
    """What is left of a record that was removed. removal: the sequence number of the record that says so."""

    leaf_index: int
    sequence: int
    leaf_hash: bytes
    removal: int


@dataclass(frozen=True, slots=True)
class RemovalProof:
    """A removal, and the compact ranges of what it removed before a range of leaves and, by their hashes, behind it."""

    record: StoredRecord
    note: str
    before: CompactRange
    behind: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    tree_size: int
    time_us: int
    note: str


@dataclass(frozen=True, slots=True)
class RangeProof:
    """Leaves [first, end) of a tree, and the compact ranges before and behind them."""

    checkpoint: StoredCheckpoint
    first: int
    end: int
    before: Sequence[bytes]
    behind: Sequence[bytes]


class AuditStore:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def list(self, selection: Selection, limit: int) -> Sequence[StoredRecord]:
        """At most `limit` records in the order in which they were written, or in the opposite one."""
        # Whoever reads on from the newest one must not miss what commits late.
        newest = await transact(self._engine, newest_sequence)
        sequence = RECORD.c.sequence
        query = _RECORDS.where(sequence > selection.after_sequence, sequence <= newest)
        for name in ("method", "token_subject", "data_subject", "peer", "trace_id"):
            if wanted := getattr(selection, name):
                query = query.where(RECORD.c[name] == wanted)
        if selection.decision is not None:
            query = query.where(RECORD.c.decision == int(selection.decision))
        if selection.before_sequence:
            query = query.where(sequence < selection.before_sequence)
        query = _within(query, selection.from_time_us, selection.to_time_us)
        query = query.order_by(sequence.desc() if selection.newest_first else sequence)
        return [_stored(row) for row in await self._all(query.limit(limit))]

    async def accept_clock(self, now_us: int) -> int:
        """Let retention go on from `now_us`. Gives the newest time that it had believed; both since the epoch."""
        return int((await execute(self._engine, _ACCEPT, {"now_us": now_us}))[0].before_us)

    async def leaves(self, first: int, end: int, limit: int) -> Sequence[StoredRecord]:
        """At most `limit` records of the leaves [first, end), in the tree's order. What was removed is left out."""
        query = (
            select(RECORD, LEAF.c.leaf_index)
            .join(LEAF, LEAF.c.record_sequence == RECORD.c.sequence)
            .where(LEAF.c.leaf_index >= first, LEAF.c.leaf_index < end)
            .order_by(LEAF.c.leaf_index)
        )
        return [_stored(row) for row in await self._all(query.limit(limit))]

    async def removed(self, first: int, end: int, limit: int) -> Sequence[RemovedLeaf]:
        """At most `limit` of the leaves [first, end) whose records were removed, in the tree's order."""
        index = LEAF.c.leaf_index
        query = select(index, LEAF.c.record_sequence.label("sequence"), LEAF.c.leaf_hash, REMOVED.c.removal)
        query = query.join(REMOVED, REMOVED.c.leaf_index == index).where(index >= first, index < end)
        return [RemovedLeaf(**row) for row in await self._all(query.order_by(index).limit(limit))]

    async def removals(self, first: int, end: int, after: int, limit: int) -> Sequence[RemovalProof]:
        """At most `limit` removals behind the one `after` that may have removed some of the leaves [first, end)."""
        removal = REMOVAL.c
        query = select(removal.first_leaf, removal.end_leaf, removal.note, RECORD, LEAF.c.leaf_index)
        query = query.join(RECORD, RECORD.c.sequence == removal.sequence)
        query = query.outerjoin(LEAF, LEAF.c.record_sequence == removal.sequence)
        query = query.where(removal.first_leaf < end, removal.end_leaf > first, removal.sequence > after)
        proofs = []
        for row in await self._all(query.order_by(removal.sequence).limit(limit)):
            whole = first <= row["first_leaf"] and row["end_leaf"] <= end
            before, behind = await self._parts(row["sequence"], first, 0 if whole else end)
            proofs.append(RemovalProof(_stored(row), row["note"], before, behind))
        return proofs

    async def _parts(self, removal: int, first: int, end: int) -> tuple[CompactRange, Sequence[bytes]]:
        """The compact ranges of what it removed before leaf `first` and from leaf `end` on. end: 0 when neither is."""
        before, within, behind = [], 0, []
        if end:
            index = LEAF.c.leaf_index
            query = select(index, LEAF.c.leaf_hash).join(REMOVED, REMOVED.c.leaf_index == index)
            for row in await self._all(query.where(REMOVED.c.removal == removal).order_by(index)):
                if row["leaf_index"] < first:
                    before.append(bytes(row["leaf_hash"]))
                elif row["leaf_index"] >= end:
                    behind.append(bytes(row["leaf_hash"]))
                else:
                    within += 1
        return tree(before), tree(behind, len(before) + within).hashes

    async def checkpoints(self, after_size: int, limit: int, newest_first: bool = False) -> Sequence[StoredCheckpoint]:
        size = CHECKPOINT.c.tree_size
        query = select(size, CHECKPOINT.c.time_us, _COSIGNED_NOTE).where(size > after_size)
        query = query.order_by(size.desc() if newest_first else size).limit(limit)
        return [StoredCheckpoint(**row) for row in await self._all(query)]

    async def prove_range(self, from_time_us: int, to_time_us: int) -> RangeProof | None:
        """Prove all leaves between the first and the last record of a time range. None: nothing is signed yet."""
        newest = await self.checkpoints(0, 1, newest_first=True)
        if not newest:
            return None
        size = newest[0].tree_size
        first, end = 0, size
        if from_time_us or to_time_us:
            found = select(func.min(LEAF.c.leaf_index).label("first"), func.max(LEAF.c.leaf_index).label("last"))
            found = found.join(RECORD, LEAF.c.record_sequence == RECORD.c.sequence).where(LEAF.c.leaf_index < size)
            (row,) = await self._all(_within(found, from_time_us, to_time_us))
            first, end = (row["first"], row["last"] + 1) if row["first"] is not None else (size, size)
        before = await self._tree(first)
        behind = CompactRange(end)
        await self._grow(behind, size)
        return RangeProof(newest[0], first, end, before.hashes, behind.hashes)

    async def prove_growth(self, old_size: int, size: int) -> Sequence[bytes]:
        """The consistency proof from the tree of `old_size` leaves to that of `size`; none from the empty one."""
        if old_size == 0:
            return ()
        old, added = await self._tree(old_size), CompactRange(old_size)
        await self._grow(added, size)
        return growth_proof(old, added)

    async def keep_cosignature(self, size: int, witness: str, line: str) -> None:
        await execute(self._engine, _KEEP_COSIGNATURE, {"size": size, "witness": witness, "line": line})

    async def _tree(self, size: int) -> CompactRange:
        """The tree of the first `size` leaves, grown from the nearest checkpoint."""
        known = await self._all(
            select(CHECKPOINT.c.tree_size, CHECKPOINT.c.subtrees)
            .where(CHECKPOINT.c.tree_size <= size)
            .order_by(CHECKPOINT.c.tree_size.desc())
            .limit(1)
        )
        tree = CompactRange(0, known[0]["tree_size"], _hashes(known[0]["subtrees"])) if known else CompactRange()
        await self._grow(tree, size)
        return tree

    async def _grow(self, compact: CompactRange, end: int) -> None:
        """Add the leaves up to `end`. Raises DataLoss when one of them is gone."""
        while compact.end < end:
            until = min(compact.end + _LEAVES_PAGE, end)
            index = LEAF.c.leaf_index
            query = select(LEAF.c.leaf_hash).where(index >= compact.end, index < until).order_by(index)
            for row in await self._all(query):
                compact.append(bytes(row["leaf_hash"]))
            if compact.end != until:
                raise DataLoss("LEAVES_MISSING", "leaves of the audit tree are gone", remedy="run isthmus audit verify")

    async def _all(self, query: Select[Any]) -> Sequence[RowMapping]:
        async def work(connection: AsyncConnection) -> Sequence[RowMapping]:
            rows: Sequence[RowMapping] = (await connection.execute(query)).mappings().all()
            return rows

        return await transact(self._engine, work)


def _within(query: Select[Any], from_time_us: int, to_time_us: int) -> Select[Any]:
    if from_time_us:
        query = query.where(RECORD.c.time_us >= from_time_us)
    return query.where(RECORD.c.time_us < to_time_us) if to_time_us else query


def _hashes(joined: bytes) -> list[bytes]:
    return [bytes(joined[at : at + HASH_BYTES]) for at in range(0, len(joined), HASH_BYTES)]


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
    return StoredRecord(row["sequence"], record, bytes(row["leaf_hash"]), row["leaf_index"])
