"""Follows the compacted topics from their beginning and keeps the node's snapshot current.

Start: the file of the last run answers at once; meanwhile the topics are read up to the ends that they had at the
start, then the difference is applied in one step (a key whose tombstone is long compacted away is gone then too).
After that every batch of changes is applied as it comes.
"""

import random
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from mesh.logs import logger
from public_edge.kafka import SILENT, KafkaAccess
from public_edge.snapshot import state
from public_edge.snapshot.publisher import Publisher
from public_edge.snapshot.state import Key, SnapshotDamaged, Source

POLL_S = 0.1
BATCH_MAX = 5_000
SAVE_EVERY_S = 5.0
PROBE_EVERY_S = 5.0
BACKOFF_S_MAX = 5.0
_METADATA_S = 10.0


# A node that has an old snapshot gives Kafka this long to bring it up to date before it answers from the old one.
CATCH_UP_S = 5.0


class _Restart(Exception):
    """The consumer must be made anew."""


class SnapshotConsumer:
    """A thread. `ready` is set once there is something to answer from."""

    def __init__(
        self,
        access: KafkaAccess,
        topics: Mapping[str, Source],
        publisher: Publisher,
        path: Path,
    ) -> None:
        self._access = access
        self._topics = topics
        self._publisher = publisher
        self._path = path
        self._records: dict[Key, bytes] = {}
        self._stopping = threading.Event()
        self._renew = threading.Event()
        self._thread = threading.Thread(target=self._run, name="snapshot", daemon=True)
        self._log = logger("snapshot")
        self._saved_at = self._fresh_at = self._probed_at = 0.0
        self._unsaved = False
        self.ready = threading.Event()
        self._old_is_better_than_none = threading.Timer(CATCH_UP_S, self.ready.set)
        self._old_is_better_than_none.daemon = True
        self.caught_up = False

    def start(self) -> None:
        self._thread.start()

    def renew(self) -> None:
        """Take the rotated certificate: the consumer is made anew and goes on where it was."""
        self._renew.set()

    def stop(self, grace_s: float) -> None:
        self._stopping.set()
        self._old_is_better_than_none.cancel()
        self._thread.join(grace_s)

    def staleness_s(self) -> float:
        """Seconds since this node was known to have everything that was published; infinite before the first time."""
        return time.monotonic() - self._fresh_at if self._fresh_at else float("inf")

    def _run(self) -> None:
        self._load()
        backoff_s = 0.1
        positions: dict[tuple[str, int], int] = {}
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self._follow(positions)
            except _Restart:
                continue
            except KafkaException as error:
                code = error.args[0]
                self._log.warning("snapshot stream interrupted", why=code.name())
                if code.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
                    # The topic is another one than before: read it whole.
                    positions.clear()
            except Exception:
                self._log.exception("snapshot stream failed")
                positions.clear()
            backoff_s = 0.1 if time.monotonic() - began > BACKOFF_S_MAX else min(backoff_s * 2, BACKOFF_S_MAX)
            self._wait(backoff_s * (0.5 + random.random() / 2))  # noqa: S311 - jitter, not a secret

    def _load(self) -> None:
        try:
            records = state.load(self._path)
        except (SnapshotDamaged, OSError, ValueError) as error:
            self._log.error("last snapshot unusable", why=str(error))
            return
        if records is not None:
            self._publisher.publish(dict(records))
            self._records = records
            self._old_is_better_than_none.start()

    def _follow(self, positions: dict[tuple[str, int], int]) -> None:
        """Read until stopped or renewed. `positions` are the next offsets; empty: from the beginning."""
        consumer = Consumer(
            self._access.options()
            | {
                # Nothing is kept under it, but librdkafka wants one, and the broker lets us use this prefix alone.
                "group.id": f"isthmus.snapshot-{self._access.client_id}",
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "enable.partition.eof": True,
                # New records are answered at once; this is how often every node asks when there are none.
                "fetch.wait.max.ms": 500,
                "queued.max.messages.kbytes": 16384,
            },
            logger=SILENT,
        )
        try:
            staging: dict[Key, bytes] | None = None if positions else {}
            ends = self._assign(consumer, positions)
            while not self._stopping.is_set():
                if self._renew.is_set():
                    self._renew.clear()
                    if staging is not None:
                        positions.clear()
                    raise _Restart
                batch = consumer.consume(BATCH_MAX, POLL_S)
                changes = self._decode(batch, positions)
                if staging is None:
                    self._apply(changes)
                else:
                    _merge(staging, changes)
                    if all(positions[partition] >= end for partition, end in ends.items()):
                        self._apply(state.difference(self._records, staging))
                        staging = None
                        self._fresh_at = time.monotonic()
                        self._unsaved = True
                        self.caught_up = True
                        self.ready.set()
                self._publisher.advance()
                self._save()
                if staging is None:
                    self._probe(consumer, positions)
        finally:
            consumer.close()

    def _assign(self, consumer: Consumer, positions: dict[tuple[str, int], int]) -> dict[tuple[str, int], int]:
        """Assign every partition of the topics, at `positions` or else their beginning; return their ends as of now."""
        metadata = consumer.list_topics(timeout=_METADATA_S)
        assigned, ends = [], {}
        for topic in self._topics:
            found = metadata.topics.get(topic)
            if found is None or found.error is not None or not found.partitions:
                raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
            for number in found.partitions:
                low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=_METADATA_S)
                offset = max(positions.get((topic, number), low), low)
                assigned.append(TopicPartition(topic, number, offset))
                positions[topic, number] = offset
                ends[topic, number] = high
        consumer.assign(assigned)
        return ends

    def _decode(self, batch: list[Message], positions: dict[tuple[str, int], int]) -> dict[Key, bytes | None]:
        """The newest value of each key. Ends are reached by the broker's word: offsets have gaps by design."""
        changes: dict[Key, bytes | None] = {}
        for message in batch:
            topic, partition, offset = message.topic(), message.partition(), message.offset()
            error = message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
            if topic is None or partition is None or offset is None:
                continue
            if error is not None:
                positions[topic, partition] = max(positions[topic, partition], offset)
                continue
            positions[topic, partition] = offset + 1
            key = message.key()
            if key is not None:
                # An empty value removes as a missing one does.
                changes[self._topics[topic], key.decode("utf-8", "replace")] = message.value() or None
        return changes

    def _apply(self, changes: Mapping[Key, bytes | None]) -> None:
        if not changes:
            return
        self._publisher.publish(changes)
        _merge(self._records, changes)
        self._unsaved = True

    def _probe(self, consumer: Consumer, positions: Mapping[tuple[str, int], int]) -> None:
        """Every few seconds, ask whether the ends are reached; so a silent broker is not taken for a silent topic."""
        now = time.monotonic()
        if now - self._probed_at < PROBE_EVERY_S:
            return
        self._probed_at = now
        for (topic, number), position in positions.items():
            _, high = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=1.0)
            if position < high:
                return
        self._fresh_at = time.monotonic()

    def _save(self) -> None:
        now = time.monotonic()
        if not self._unsaved or now - self._saved_at < SAVE_EVERY_S:
            return
        self._saved_at = now
        try:
            state.save(self._path, self._records)
            self._unsaved = False
        except OSError as error:
            self._log.error("snapshot not saved", why=str(error))

    def _wait(self, seconds: float) -> None:
        """Campaigns begin and end while Kafka is away, too."""
        deadline = time.monotonic() + seconds
        while not self._stopping.wait(min(POLL_S, max(0.0, deadline - time.monotonic()))):
            self._publisher.advance()
            if time.monotonic() >= deadline:
                return


def _merge(records: dict[Key, bytes], changes: Mapping[Key, bytes | None]) -> None:
    for key, value in changes.items():
        if value is None:
            records.pop(key, None)
        else:
            records[key] = value
