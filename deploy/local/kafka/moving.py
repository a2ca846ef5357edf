"""Changes to the log itself while events flow: more partitions, and another cluster.

Moving loses nothing because whoever writes keeps what Kafka does not take: edge nodes in their spools, the private zone
in its outbox. So the writers are fenced by the rules of access, the old log is read to its end, what each compacted
topic holds is copied, and only then the checkpoints are moved to the new log.
"""

import time
from collections.abc import Collection, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AclBindingFilter, AclOperation, AdminClient, NewPartitions, ResourceType

from deploy.local import topics
from deploy.local.errors import LauncherError, UnknownName
from deploy.local.kafka import access, broker
from mesh.contract import EventPolicy

# Kafka takes thousands; each costs a file or two and a share of every start.
PARTITIONS_MAX: Final = 64
DEADLINE_S: Final = 30.0
COPY_S_MAX: Final = 600.0
_POLL_S: Final = 0.2

Place = tuple[str, int]


@dataclass(frozen=True)
class Cluster:
    """Where a cluster is, and who may alter it."""

    bootstrap: str
    identity: Path

    def admin(self) -> AdminClient:
        return broker.admin(self.identity, self.bootstrap)

    def settings(self) -> dict[str, str | int | float | bool]:
        return broker.client_settings(self.identity, self.bootstrap)


def grow(cluster: Cluster, events: Iterable[EventPolicy], topic: str, partitions: int) -> int:
    """Give a topic more partitions; returns how many it had. Who reads and writes it finds them within half a minute.

    Raises:
        LauncherError: no such topic, fewer than it has, too many, or a compacted topic.
    """
    known = {event.topic: event for event in events}
    if topic not in known:
        raise UnknownName(f"The contract has no topic {topic}", f"One of {', '.join(sorted(known))}")
    if known[topic].compacted:
        # The key chooses the partition: the newest state would lie in one, and an older one for ever in another.
        raise LauncherError(
            f"{topic} is compacted, and with other partitions its keys lie elsewhere",
            "Change `partitions` in the contract, and publish every entity to a cluster that is new",
        )
    admin = cluster.admin()
    there = admin.list_topics(topic, timeout=DEADLINE_S).topics[topic]
    if there.error is not None:
        raise LauncherError(f"Kafka does not tell of {topic}: {there.error.str()}", "See `isthmus status`")
    before = len(there.partitions)
    if not before <= partitions <= PARTITIONS_MAX:
        raise LauncherError(
            f"{topic} has {before} partitions and cannot have {partitions}",
            f"Kafka only adds partitions: name a number from {before} to {PARTITIONS_MAX}",
        )
    if partitions > before:
        _finish(admin.create_partitions([NewPartitions(topic, partitions)], request_timeout=DEADLINE_S).values())
        topics.await_everywhere(cluster.identity, cluster.bootstrap, {topic})
    return before


def prepare(target: Cluster, events: Collection[EventPolicy]) -> None:
    """The contract's topics and rules in the new cluster."""
    topics.ensure(target.admin(), events)
    topics.await_everywhere(target.identity, target.bootstrap, {event.topic for event in events})


def fence(source: Cluster, events: Iterable[EventPolicy]) -> None:
    """Let nobody write into the cluster any more. The next start of a mesh on it lets them again (topics.ensure)."""
    rules = access.bindings((event.topic, event.direction.name.lower()) for event in events)
    writing = [
        AclBindingFilter(
            rule.restype,
            rule.name,
            rule.resource_pattern_type,
            rule.principal,
            rule.host,
            rule.operation,
            rule.permission_type,
        )
        for rule in rules
        if rule.restype is ResourceType.TOPIC and rule.operation is AclOperation.WRITE
    ]
    # The client must outlive its answers.
    admin = source.admin()
    _finish(admin.delete_acls(writing, request_timeout=DEADLINE_S).values())


def ends(cluster: Cluster, names: Collection[str]) -> dict[Place, int]:
    """Of every partition of these topics: the offset behind its last record."""
    consumer = _reader(cluster)
    try:
        known = consumer.list_topics(timeout=DEADLINE_S).topics
        places = [TopicPartition(name, number) for name in names for number in known[name].partitions]
        return {(place.topic, place.partition): _marks(consumer, place)[1] for place in places}
    finally:
        consumer.close()


def topic_ids(cluster: Cluster, names: Collection[str]) -> dict[str, str]:
    """As the inward bridge keeps them with its checkpoints: 32 hexadecimal digits."""
    found = {}
    # The client must outlive its answers.
    admin = cluster.admin()
    asked = admin.describe_topics(TopicCollection(list(names)), request_timeout=DEADLINE_S)
    for name, future in asked.items():
        identity = future.result(timeout=DEADLINE_S).topic_id
        halves = (identity.get_most_significant_bits(), identity.get_least_significant_bits())
        found[name] = "".join(f"{half & 0xFFFFFFFFFFFFFFFF:016x}" for half in halves)
    return found


def copy_newest(source: Cluster, target: Cluster, name: str) -> int:
    """Bring the newest record of each key of a compacted topic into the new cluster; returns how many keys there are.

    What is there already is overwritten by the same, so it may be repeated; a key that has gone is not brought.
    """
    newest: dict[bytes, Any] = {}
    consumer = _reader(source)
    try:
        partitions = consumer.list_topics(name, timeout=DEADLINE_S).topics[name].partitions
        left = {number for number in partitions if _behind(consumer, TopicPartition(name, number))}
        consumer.assign([TopicPartition(name, number, OFFSET_BEGINNING) for number in left])
        deadline = time.monotonic() + COPY_S_MAX
        while left:
            if time.monotonic() >= deadline:
                raise LauncherError(f"{name} was not read within {COPY_S_MAX:g} s", "Is the cluster well? Try again")
            for message in consumer.consume(1000, _POLL_S):
                if (error := message.error()) is not None:
                    if error.code() != KafkaError._PARTITION_EOF:
                        raise KafkaException(error)
                    left.discard(message.partition())
                    continue
                newest[message.key() or b""] = message
    finally:
        consumer.close()
    kept = {key: message for key, message in newest.items() if message.value()}
    producer = Producer(target.settings() | {"enable.idempotence": True, "linger.ms": 5, "compression.type": "zstd"})
    failed: list[KafkaError] = []

    def delivered(error: KafkaError | None, _: object) -> None:
        if error is not None:
            failed.append(error)

    for key, message in kept.items():
        while True:
            try:
                producer.produce(name, message.value(), key, headers=message.headers(), on_delivery=delivered)
                break
            except BufferError:
                producer.poll(_POLL_S)
    if producer.flush(COPY_S_MAX) or failed:
        raise LauncherError(f"{name} could not be copied: {failed[:1]}", "Is the new cluster well? Try again")
    return len(kept)


def _reader(cluster: Cluster) -> Consumer:
    # By default it would go on at a log's end where a place that it wants is gone, and leave out what lies between.
    told = {"group.id": "isthmus.moving", "auto.offset.reset": "error"}
    return Consumer(cluster.settings() | told | {"enable.auto.commit": False, "enable.partition.eof": True})


def _behind(consumer: Consumer, place: TopicPartition) -> bool:
    low, high = _marks(consumer, place)
    return high > low


def _marks(consumer: Consumer, place: TopicPartition) -> tuple[int, int]:
    marks = consumer.get_watermark_offsets(place, DEADLINE_S)
    if marks is None:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"no watermarks of {place.topic}"))
    return marks


def _finish(answers: Iterable[Future[Any]]) -> None:
    for answer in answers:
        answer.result(timeout=DEADLINE_S)
