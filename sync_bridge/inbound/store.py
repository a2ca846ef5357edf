"""The inward bridge's one connection to PostgreSQL: rows, dead letters and offsets in one transaction.

Offsets committed to the broker are never used. A transaction either leaves rows and the offset behind them, or neither;
a commit whose outcome is unknown is settled by reading the checkpoint again.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import psycopg

from mesh.database.connections import noticing
from sync_bridge.inbound.domain import (
    Claim,
    Fenced,
    Flow,
    GapError,
    NotDrained,
    Partition,
    Record,
    Refused,
    Tally,
    Watermarks,
    check_continuity,
    isolate,
)
from sync_bridge.inbound.tables import Copies, Table
from sync_bridge.ledger import conservation
from sync_bridge.ledger.dead_letters import DeadLetter, bury

# SQLSTATE classes that say the values are at fault: data exception, constraint violation, a limit exceeded.
_DATA_CLASSES: Final = frozenset({"22", "23", "54"})

_CLAIM: Final = """
    INSERT INTO bridge.checkpoint AS held (topic, partition, topic_id, epoch, worker, next_offset)
    VALUES (%s, %s, %s, 1, %s, %s)
    ON CONFLICT (topic, partition) DO UPDATE
        SET epoch = held.epoch + 1, worker = excluded.worker, changed_time = clock_timestamp()
    RETURNING epoch, next_offset, topic_id
"""
# A row is changed only by the worker whose epoch is the row's, and only from the offset that this worker went on from.
_ADVANCE: Final = """
    UPDATE bridge.checkpoint AS held
    SET next_offset = done.next_offset, landed = held.landed + done.landed,
        duplicates = held.duplicates + done.duplicates, dead_letters = held.dead_letters + done.dead_letters,
        changed_time = clock_timestamp()
    FROM unnest(
        %s::text[], %s::int[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[]
    ) AS done (topic, partition, epoch, from_offset, next_offset, landed, duplicates, dead_letters)
    WHERE held.topic = done.topic AND held.partition = done.partition
        AND held.epoch = done.epoch AND held.next_offset = done.from_offset
"""
# The new log begins at 0: it was made for this, and nobody has written into it before.
_MOVE: Final = """
    UPDATE bridge.checkpoint SET topic_id = %s, next_offset = 0, epoch = epoch + 1, changed_time = clock_timestamp()
    WHERE topic = %s AND partition = %s AND next_offset = %s AND topic_id <> %s
"""
_MOVED: Final = "SELECT topic_id = %s FROM bridge.checkpoint WHERE topic = %s AND partition = %s"


@dataclass(slots=True)
class Batch:
    """Records of one transaction."""

    # Rows in the order of their offsets: (values in the order of COPY, the record they were made from).
    rows: dict[Table, list[tuple[tuple[Any, ...], Record]]] = field(default_factory=dict)
    # The same rows as COPY reads them, unless one of them is refused for it: made where the batch is, so that the
    # database does not wait for it.
    copies: dict[Table, Copies] = field(default_factory=dict)
    refused: list[tuple[Record, Refused]] = field(default_factory=list)
    # Where each partition goes on, and how many records of it are here.
    ends: dict[Partition, int] = field(default_factory=dict)
    counts: dict[Partition, int] = field(default_factory=dict)
    # When some of the events were accepted, evenly drawn; microseconds.
    accepted_us: list[int] = field(default_factory=list)
    # When the last record of each partition was written to its log; microseconds.
    written_us: dict[Partition, int] = field(default_factory=dict)

    def close(self, topic: str, partition: int, end: int, count: int, last: Record) -> None:
        """A run of `count` records of a partition ends with `last`, before the offset `end`."""
        self.ends[topic, partition] = end
        self.written_us[topic, partition] = last.timestamp()[1] * 1000
        self.counts[topic, partition] = self.counts.get((topic, partition), 0) + count


class Store:
    """Not for use by several threads at once."""

    def __init__(self, url: str, worker: str, statement_s_max: float, tables: Iterable[Table]) -> None:
        """Connect and prepare. Raises psycopg.OperationalError while PostgreSQL is away."""
        limits = {
            "statement_timeout": int(statement_s_max * 1000),
            "idle_in_transaction_session_timeout": int(statement_s_max * 1000),
            "timezone": "UTC",
            # A crash of PostgreSQL may take the last commits with it, but rows and offset together: what is lost is
            # read from Kafka again. So a landing need not wait for the disk. A claim does.
            "synchronous_commit": "off",
        }
        self._worker = worker
        self._connection = psycopg.connect(
            url,
            application_name=worker,
            connect_timeout=3,
            autocommit=True,
            prepare_threshold=1,
            options=" ".join(f"-c {name}={value}" for name, value in limits.items()),
            **noticing(statement_s_max),
        )
        for table in tables:
            # Fails here, at the start, when the warehouse has not the columns that are written.
            self._connection.execute(f"SELECT {', '.join(table.names)} FROM warehouse.{table.name} LIMIT 0")  # noqa: S608
            self._connection.execute(table.create_staging)

    def close(self) -> None:
        self._connection.close()

    def claim(self, logs: Mapping[Partition, Watermarks], topic_ids: Mapping[str, str]) -> dict[Partition, Claim]:
        """Take the partitions from whoever had them, and learn where they go on.

        Waits for a transaction of the one before that is just ending. A partition never seen begins where its log does.
        Raises GapError, having taken nothing, when a log no longer holds all that has not landed.
        """
        claims: dict[Partition, Claim] = {}
        with self._connection.transaction():
            # An epoch that has been told must not come back.
            self._connection.execute("SET LOCAL synchronous_commit = on")
            # In one order everywhere, so that two workers that claim at once do not lock each other out.
            for (topic, partition), log in sorted(logs.items()):
                values = (topic, partition, topic_ids[topic], self._worker, log.low)
                row = self._connection.execute(_CLAIM, values).fetchone()
                assert row is not None
                epoch, next_offset, topic_id = row
                if topic_id != topic_ids[topic]:
                    raise GapError(f"{topic} was removed and made anew: its id was {topic_id}, not {topic_ids[topic]}")
                check_continuity((topic, partition), next_offset, log)
                claims[topic, partition] = Claim(epoch, next_offset)
        return claims

    def land(self, batch: Batch, claims: Mapping[Partition, Claim]) -> dict[Partition, Tally]:
        """Commit the batch as a whole. Raises Fenced, having changed nothing, when a claim is no longer the newest."""
        try:
            return self._land(batch, claims, isolating=False)
        except Refused:
            # Of an event that was there already, or of a value: the whole once more, and then its halves.
            return self._land(batch, claims, isolating=True)

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection]:
        """A transaction on this store's connection, for those who land single records. Durable when it has ended."""
        with self._connection.transaction():
            self._connection.execute("SET LOCAL synchronous_commit = on")
            yield self._connection

    def land_one(self, table: Table, values: tuple[Any, ...], record: Record) -> int:
        """Inside a transaction: 1 when the record landed, 0 when its event is there already. Raises Refused."""
        place = (record.topic(), record.partition())
        tallies = {place: Tally()}
        self._try(table, tallies, [(values, record)])
        return tallies[place].landed

    def land_again(
        self, table: Table, rows: Sequence[tuple[tuple[Any, ...], Record]], *, shadow: bool
    ) -> tuple[int, int]:
        """Inside a transaction: how many rows were not there, and how many the database will not have."""
        landed, refused, insert = 0, 0, table.insert_again(shadow=shadow)

        def accept(part: Sequence[tuple[tuple[Any, ...], Record]]) -> None:
            nonlocal landed
            with self._connection.transaction(), _values_at_fault():
                self._stage(table, part)
                landed += self._connection.execute(insert).rowcount

        def refuse(row: tuple[tuple[Any, ...], Record], why: Refused) -> None:
            nonlocal refused
            refused += 1

        isolate(rows, accept, refuse)
        return landed, refused

    def recount(self, tallies: Mapping[Partition, Tally]) -> None:
        """Records that are dead letters no longer: they landed, or were duplicates."""
        for (topic, partition), tally in sorted(tallies.items()):
            self._connection.execute(
                "UPDATE bridge.checkpoint SET dead_letters = dead_letters - %s, landed = landed + %s,"
                " duplicates = duplicates + %s WHERE topic = %s AND partition = %s",
                (tally.landed + tally.duplicates, tally.landed, tally.duplicates, topic, partition),
            )

    def move_log(self, ends: Mapping[Partition, int], topic_ids: Mapping[str, str]) -> None:
        """Inside a transaction: go on at the beginning of other topics of the same names, in another cluster.

        ends: where the log before ends. Whoever holds a partition of it is fenced. Raises NotDrained, and then nothing
        may stay, when a checkpoint is not at its end. Checkpoints that have moved already stay as they are.
        """
        for (topic, partition), end in sorted(ends.items()):
            new = topic_ids[topic]
            if self._connection.execute(_MOVE, (new, topic, partition, end, new)).rowcount:
                continue
            held = self._connection.execute(_MOVED, (new, topic, partition)).fetchone()
            # A partition that never had a record may never have been claimed.
            if held != (True,) and (end or held is not None):
                raise NotDrained(f"{topic}/{partition} has not landed up to {end}")

    def flow(self) -> Flow:
        """What operators want of the flow."""
        row = self._connection.execute("SELECT paused, records_per_s_max FROM bridge.flow").fetchone()
        return Flow(*row) if row else Flow()

    def _land(self, batch: Batch, claims: Mapping[Partition, Claim], *, isolating: bool) -> dict[Partition, Tally]:
        tallies = {partition: Tally() for partition in batch.ends}
        refused = list(batch.refused)
        with self._connection.transaction():
            for table, rows in batch.rows.items():
                if isolating:
                    isolate(
                        rows,
                        partial(self._try, table, tallies),
                        lambda row, why: refused.append((row[1], why)),
                    )
                else:
                    self._insert_new(table, batch, rows[0][1].topic(), tallies)
            for message, _ in refused:
                tallies[message.topic(), message.partition()].dead_letters += 1
            bury(self._connection, [_letter(message, why) for message, why in refused])
            conservation.enter_dead_letters(self._connection, [message for message, _ in refused])
            for partition, tally in tallies.items():
                tally.duplicates = batch.counts[partition] - tally.landed - tally.dead_letters
            self._advance(batch, claims, tallies)
        return tallies

    def _try(
        self, table: Table, tallies: dict[Partition, Tally], rows: Sequence[tuple[tuple[Any, ...], Record]]
    ) -> None:
        with self._connection.transaction(), _values_at_fault():
            self._stage(table, rows)
            self._insert_staged(table, rows[0][1].topic(), tallies)

    def _stage(self, table: Table, rows: Sequence[tuple[tuple[Any, ...], Record]]) -> None:
        self._connection.execute(f"TRUNCATE {table.staging}")
        self._copy(table.copy_staged, table.copies([values for values, _ in rows]).rows)

    def _insert_new(self, table: Table, batch: Batch, topic: str, tallies: dict[Partition, Tally]) -> None:
        """As if no event had come before, which is so as a rule: then rows go straight to where they stay, the ledger's
        counts are known, and PostgreSQL need not tell of each row whether it landed. Raises Refused otherwise."""
        copies = batch.copies.get(table)
        if copies is None:
            raise Refused("NOT_OF_ITS_TYPE", "a value is not of its type")
        with _values_at_fault():
            self._copy(table.copy_ids, copies.ids)
            self._copy(table.copy_rows, copies.rows)
        conservation.enter_landed(self._connection, topic, copies.cells)
        for (partition, _, _), count in copies.cells.items():
            tallies[topic, partition].landed += count

    def _insert_staged(self, table: Table, topic: str, tallies: dict[Partition, Tally]) -> None:
        for partition, count in self._connection.execute(table.insert, (topic,)).fetchall():
            tallies[topic, partition].landed += count

    def _copy(self, statement: str, data: bytes) -> None:
        with self._connection.cursor() as cursor, cursor.copy(statement) as copy:
            copy.write(data)

    def _advance(self, batch: Batch, claims: Mapping[Partition, Claim], tallies: Mapping[Partition, Tally]) -> None:
        done: list[tuple[Any, ...]] = []
        for partition, end in sorted(batch.ends.items()):
            claim, tally = claims[partition], tallies[partition]
            counters = (tally.landed, tally.duplicates, tally.dead_letters)
            done.append((*partition, claim.epoch, claim.next_offset, end, *counters))
        advanced = self._connection.execute(_ADVANCE, [list(column) for column in zip(*done, strict=True)]).rowcount
        if advanced != len(done):
            raise Fenced(f"{len(done) - advanced} of {len(done)} partitions belong to another worker now")


@contextmanager
def _values_at_fault() -> Iterator[None]:
    """Raises Refused for what the database will not have because of the values."""
    try:
        yield
    except psycopg.Error as error:
        if (error.sqlstate or "")[:2] not in _DATA_CLASSES:
            raise
        # Not the values themselves: PostgreSQL's context and detail repeat them, its message seldom does.
        raise Refused("REFUSED_BY_DATABASE", f"{error.sqlstate}: {error.diag.message_primary}") from error


def _letter(message: Record, why: Refused) -> DeadLetter:
    headers = message.headers() or []
    kind = dict(headers).get("kind")
    return DeadLetter(
        direction="inward",
        topic=message.topic(),
        partition=message.partition(),
        position=message.offset(),
        kind=kind.decode("utf-8", "replace") if kind else None,
        cause=why.cause,
        detail=why.detail,
        key=message.key(),
        payload=message.value(),
        headers=headers,
        time_ms=message.timestamp()[1],
    )
