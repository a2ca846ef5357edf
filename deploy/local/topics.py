"""One-shot: every topic of the contract, and who may write and read it. Run as often as you like.

Environment: ISTHMUS_KAFKA_BOOTSTRAP, and ISTHMUS_IDENTITY_DIR of an identity that may alter the cluster.
"""

import time
from collections.abc import Collection, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from deploy.local.kafka import access, broker
from mesh import contract
from mesh.contract import EventPolicy

DEADLINE_S = 30
POLL_S = 0.1
# What the bridge has not fetched after a week is in no one's interest to keep in the public zone.
RETENTION_MS = 7 * 24 * 3600 * 1000


class TopicSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="ISTHMUS_", extra="ignore")

    kafka_bootstrap: str
    identity_dir: Path


def crossing() -> list[EventPolicy]:
    """The events of the contract that have a topic: those that go from one zone into the other."""
    return [event for event in contract.load().events.values() if event.crosses]


def new_topic(event: EventPolicy) -> NewTopic:
    if event.compacted:
        # The last state of each entity, for ever; edge nodes build their snapshot from it.
        config = {"cleanup.policy": "compact", "delete.retention.ms": str(24 * 3600 * 1000)}
    else:
        config = {"cleanup.policy": "delete", "retention.ms": str(RETENTION_MS)}
    # -1: as many replicas as the cluster's own default says.
    return NewTopic(event.topic, num_partitions=event.partitions, replication_factor=-1, config=config)


def ensure(client: AdminClient, events: Iterable[EventPolicy]) -> None:
    """Allow what the contract allows, create what is missing, add partitions where the contract has more, and bring
    settings back to the contract's where somebody altered them.

    Raises:
        KafkaException: the broker refused, or did not answer in time.
    """
    wanted = {event.topic: event for event in events}
    made = [new_topic(event) for event in wanted.values()]
    # The rules first: a broker that knows a new topic knows then who may use it, for it learns both in this order.
    rules = access.bindings((event.topic, event.direction.name.lower()) for event in wanted.values())
    _finish(client.create_acls(rules, request_timeout=DEADLINE_S).values())
    # What is made here is as it should be, and the broker that is asked may not know it yet.
    there = client.list_topics(timeout=DEADLINE_S).topics
    _finish(client.create_topics(made, request_timeout=DEADLINE_S).values())
    grown = [
        NewPartitions(name, event.partitions)
        for name, event in wanted.items()
        if name in there and len(there[name].partitions) < event.partitions
    ]
    if grown:
        _finish(client.create_partitions(grown, request_timeout=DEADLINE_S).values())
    astray: dict[str, list[ConfigEntry]] = {}
    for each in strayed(client, [topic for topic in made if topic.topic in there]):
        entry = ConfigEntry(each.name, each.wanted, incremental_operation=AlterConfigOpType.SET)
        astray.setdefault(each.topic, []).append(entry)
    if astray:
        altered = [ConfigResource(ResourceType.TOPIC, name, incremental_configs=each) for name, each in astray.items()]
        _finish(client.incremental_alter_configs(altered, request_timeout=DEADLINE_S).values())


@dataclass(frozen=True)
class Strayed:
    """A setting of a topic that is not as the contract has it."""

    topic: str
    name: str
    value: str
    wanted: str


def strayed(client: AdminClient, topics: Collection[NewTopic]) -> list[Strayed]:
    """The settings of existing topics that differ from what these would be made with.

    Raises:
        KafkaException: the broker refused, or did not answer in time.
    """
    if not topics:
        return []
    wanted = {topic.topic: topic.config or {} for topic in topics}
    asked = [ConfigResource(ResourceType.TOPIC, name) for name in wanted]
    answers = client.describe_configs(asked, request_timeout=DEADLINE_S)
    found = {resource.name: answer.result(timeout=DEADLINE_S) for resource, answer in answers.items()}
    return [
        Strayed(topic, name, found[topic][name].value, value)
        for topic, config in wanted.items()
        for name, value in config.items()
        if found[topic][name].value != value
    ]


def await_everywhere(identity: Path, bootstrap: str, topics: Collection[str]) -> None:
    """Return when every broker that serves knows these topics, each partition with a leader.

    The one that was asked to make them is the first to know; whoever asks another too soon is refused.

    Raises:
        TimeoutError: one does not in time.
    """
    deadline = time.monotonic() + DEADLINE_S
    brokers = broker.admin(identity, bootstrap).list_topics(timeout=DEADLINE_S).brokers.values()
    for address in (f"{one.host}:{one.port}" for one in brokers):
        # A client that knows one broker asks that one.
        while not _knows(broker.admin(identity, address), topics):
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{address} does not know every topic after {DEADLINE_S} s")
            time.sleep(POLL_S)


def _knows(client: AdminClient, topics: Collection[str]) -> bool:
    there = client.list_topics(timeout=DEADLINE_S).topics
    return all(name in there and all(one.leader >= 0 for one in there[name].partitions.values()) for name in topics)


def _finish(answers: Iterable[Future[Any]]) -> None:
    for answer in answers:
        try:
            answer.result(timeout=DEADLINE_S)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise


def main() -> None:
    settings = TopicSettings()
    events = crossing()
    ensure(broker.admin(settings.identity_dir, settings.kafka_bootstrap), events)
    await_everywhere(settings.identity_dir, settings.kafka_bootstrap, {event.topic for event in events})


if __name__ == "__main__":
    main()
