"""Records that Kafka still holds, read once more: into the warehouse, or into a shadow of one of its tables.

What was counted when it came the first time is not counted again: rows that were lost come back, and the ledger
balances as it did. What lies among the dead letters stays there; it is replayed, or was given up, on record.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from mesh.errors import FailedPrecondition, NotFound
from sync_bridge.inbound.decoder import Decoder
from sync_bridge.inbound.domain import Record
from sync_bridge.inbound.store import Store
from sync_bridge.inbound.tables import Table
from sync_bridge.kafka import SILENT, BridgeSettings, client_settings

# Of one call, whose caller waits for it.
RECORDS_MAX: Final = 5_000
READ_S_MAX: Final = 5.0
_BROKER_DEADLINE_S: Final = 5.0
_GONE: Final = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})


@dataclass(frozen=True, slots=True)
class Span:
    """Offsets of one partition: from `begin` on, up to but not including `end`."""

    partition: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Landed:
    read: int
    landed: int
    duplicates: int
    refused: int
    # Where to go on; the span's end when it is done.
    next_offset: int


@dataclass(frozen=True, slots=True)
class Compared:
    """Rows of a shadow; those that the table has not; those that it has with other values."""

    rows: int
    missing: int
    different: int


def open_consumer(settings: BridgeSettings) -> Consumer:
    """One that belongs to no group: it takes nothing from the workers and commits nothing."""
    return Consumer(
        client_settings(settings.identity_dir, settings.kafka_bootstrap, f"{settings.node}-backfill")
        | {
            "group.id": "isthmus.backfill",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
            "queued.max.messages.kbytes": 16 * 1024,
        },
        logger=SILENT,
    )


def find(consumer: Consumer, topic: str, from_us: int, to_us: int) -> list[Span]:
    """The records that were written to the topic in [from, to); 0: no bound. Raises KafkaException, blocks for it."""
    partitions = sorted(consumer.list_topics(topic, timeout=_BROKER_DEADLINE_S).topics[topic].partitions)
    begins, ends = (_offsets(consumer, topic, partitions, us) for us in (from_us, to_us))
    spans = []
    for partition in partitions:
        low, high = _watermarks(consumer, TopicPartition(topic, partition))
        begin = min(begins[partition], high) if from_us else low
        spans.append(Span(partition, begin, max(begin, min(ends[partition], high) if to_us else high)))
    return spans


def land_again(consumer: Consumer, store: Store, decoder: Decoder, topic: str, span: Span, *, shadow: bool) -> Landed:
    """Land the next records of the span that are not there. Repeating it changes nothing.

    Raises:
        FailedPrecondition: the log no longer holds the span's beginning.
    """
    table = decoder.table(topic)
    messages, next_offset = _read(consumer, topic, span)
    batch = decoder.batch(messages, {(topic, span.partition): span.begin})
    rows = batch.rows.get(table, [])
    with store.transaction() as connection:
        if shadow:
            shape = f"LIKE warehouse.{table.name} INCLUDING ALL, PRIMARY KEY (event_id)"
            connection.execute(f"CREATE TABLE IF NOT EXISTS {table.shadow} ({shape})")
        buried = connection.execute(
            "SELECT position FROM bridge.dead_letter WHERE direction = 'inward' AND topic = %s AND partition = %s"
            " AND position >= %s AND position < %s AND state <> 'replayed'",
            (topic, span.partition, span.begin, next_offset),
        ).fetchall()
        settled = frozenset(position for (position,) in buried)
        free = [row for row in rows if row[1].offset() not in settled]
        landed, refused = store.land_again(table, free, shadow=shadow)
    refused += len(messages) - len(free)
    return Landed(len(messages), landed, len(messages) - landed - refused, refused, next_offset)


def compare(store: Store, table: Table, *, drop: bool) -> Compared:
    """Raises NotFound where nothing was landed in a shadow."""
    with store.transaction() as connection:
        (there,) = connection.execute("SELECT to_regclass(%s) IS NOT NULL", (table.shadow,)).fetchall()
        if not there[0]:
            raise NotFound("NO_SHADOW", f"{table.name} has no shadow", remedy="land records in one first")
        (found,) = connection.execute(table.compare).fetchall()
        if drop:
            connection.execute(f"DROP TABLE {table.shadow}")
    return Compared(*found)


def _read(consumer: Consumer, topic: str, span: Span) -> tuple[Sequence[Record], int]:
    """The span's next records, and where to go on behind them."""
    low, _ = _watermarks(consumer, TopicPartition(topic, span.partition))
    if span.begin < low < span.end:
        raise _gone(topic, span)
    consumer.assign([TopicPartition(topic, span.partition, span.begin)])
    found: list[Record] = []
    at, deadline = span.begin, time.monotonic() + READ_S_MAX
    while at < span.end and len(found) < RECORDS_MAX and time.monotonic() < deadline:
        for message in consumer.consume(RECORDS_MAX - len(found), 0.2):
            if (error := message.error()) is not None:
                if error.code() in _GONE:
                    raise _gone(topic, span)
                if error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                at = span.end
            elif (record := cast("Record", message)).offset() >= span.end:
                at = span.end
            else:
                found.append(record)
                at = record.offset() + 1
    return found, at


def _gone(topic: str, span: Span) -> FailedPrecondition:
    return FailedPrecondition(
        "RECORDS_GONE",
        f"{topic}/{span.partition} no longer holds the offset {span.begin}",
        remedy="find the records that are there first",
    )


def _offsets(consumer: Consumer, topic: str, partitions: Sequence[int], us: int) -> dict[int, int]:
    """By partition: the first offset written at this time or later; beyond every offset where there is none."""
    asked = [TopicPartition(topic, partition, -(-us // 1000)) for partition in partitions]
    found = consumer.offsets_for_times(asked, timeout=_BROKER_DEADLINE_S)
    return {each.partition: each.offset if each.offset >= 0 else 1 << 62 for each in found}


def _watermarks(consumer: Consumer, partition: TopicPartition) -> tuple[int, int]:
    marks = consumer.get_watermark_offsets(partition, _BROKER_DEADLINE_S)
    if marks is None:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"no watermarks of {partition.topic}"))
    return marks
