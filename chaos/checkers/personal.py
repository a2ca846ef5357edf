"""Looks for personal values where none may be: in the public zone's files, and in the records of its topics."""

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

CHUNK_BYTES = 1 << 20
FILE_BYTES_MAX = 1 << 30
READ_WITHIN_S = 60.0
ANSWER_WITHIN_S = 10.0
BATCH = 1000


class TopicsUnread(Exception):
    """Not every record could be looked at, and what was not looked at is not clean."""


def sightings(directories: Iterable[Path], values: Sequence[bytes]) -> list[str]:
    """`<file>: <n-th value>` for each value that stands in a file as it is. What is compressed is not looked into."""
    found = []
    for directory in directories:
        files = [directory] if directory.is_file() else sorted(directory.rglob("*"))
        for file in files:
            if file.is_file() and not file.is_symlink() and file.stat().st_size <= FILE_BYTES_MAX:
                found += [f"{file}: value {n}" for n, value in enumerate(values) if _holds(file, value)]
    return found


def _holds(file: Path, value: bytes) -> bool:
    tail = b""
    try:
        with file.open("rb") as content:
            while chunk := content.read(CHUNK_BYTES):
                if value in tail + chunk:
                    return True
                tail = chunk[-len(value) :]
    except OSError:
        # A socket, or a file that has just been removed.
        return False
    return False


def in_topics(
    settings: Mapping[str, object], topics: Iterable[str], since_ms: int, values: Sequence[bytes]
) -> list[str]:
    """`<topic>: <n-th value>` for each value in a record's key, value or headers. A consumer reads them as they were
    before they were compressed. `settings`: librdkafka's, of an identity that may read; `since_ms`: milliseconds since
    the epoch, from when on.

    Raises:
        TopicsUnread: the cluster does not answer, or did not within READ_WITHIN_S.
    """
    options = {"group.id": "isthmus-drill", "enable.auto.commit": False, "enable.partition.eof": True}
    consumer = Consumer({**settings, **options})
    try:
        return _read(consumer, sorted(topics), since_ms, values)
    except KafkaException as error:
        raise TopicsUnread(f"the topics cannot be read: {error}") from error
    finally:
        consumer.close()


def _read(consumer: Consumer, topics: Sequence[str], since_ms: int, values: Sequence[bytes]) -> list[str]:
    known = consumer.list_topics(timeout=ANSWER_WITHIN_S).topics
    if missing := sorted(set(topics) - known.keys()):
        raise TopicsUnread(f"no topic {', '.join(missing)}")
    asked = [TopicPartition(topic, number, since_ms) for topic in topics for number in known[topic].partitions]
    # A partition without a record since then begins at its end.
    unread = consumer.offsets_for_times(asked, timeout=ANSWER_WITHIN_S)
    consumer.assign(unread)
    open_, found, ends = len(unread), set[str](), time.monotonic() + READ_WITHIN_S
    while open_:
        if time.monotonic() > ends:
            raise TopicsUnread(f"{open_} partitions were not read to their end")
        for message in consumer.consume(BATCH, timeout=1.0):
            if (error := message.error()) is None:
                found |= {f"{message.topic()}: value {n}" for n, value in enumerate(values) if _carries(message, value)}
            elif error.code() == KafkaError._PARTITION_EOF:
                open_ -= 1
            else:
                raise KafkaException(error)
    return sorted(found)


def _carries(message: Message, value: bytes) -> bool:
    # A consumer gives headers as pairs; the stubs know what a producer takes, too.
    headers = cast("list[tuple[str, bytes | None]]", message.headers() or [])
    parts = (message.key(), message.value(), *(content for _, content in headers))
    return any(value in part for part in parts if part)
