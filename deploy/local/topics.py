"""One-shot: every topic of the contract, and who may write and read it. Run as often as you like.

Environment: ISTHMUS_KAFKA_BOOTSTRAP, and ISTHMUS_IDENTITY_DIR of an identity that may alter the cluster.
"""

from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic
from pydantic_settings import BaseSettings, SettingsConfigDict

from deploy.local.kafka import access, broker
from mesh import contract
from mesh.contract import EventPolicy

DEADLINE_S = 30
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
    return NewTopic(event.topic, num_partitions=event.partitions, replication_factor=1, config=config)


def ensure(client: AdminClient, events: Iterable[EventPolicy]) -> None:
    """Create what is missing, add partitions where the contract has more, and allow what the contract allows.

    Raises:
        KafkaException: the broker refused, or did not answer in time.
    """
    wanted = {event.topic: event for event in events}
    _finish(client.create_topics(list(map(new_topic, wanted.values())), request_timeout=DEADLINE_S).values())
    there = client.list_topics(timeout=DEADLINE_S).topics
    grown = [
        NewPartitions(name, event.partitions)
        for name, event in wanted.items()
        if name in there and len(there[name].partitions) < event.partitions
    ]
    if grown:
        _finish(client.create_partitions(grown, request_timeout=DEADLINE_S).values())
    rules = access.bindings((event.topic, event.direction.name.lower()) for event in wanted.values())
    _finish(client.create_acls(rules, request_timeout=DEADLINE_S).values())


def _finish(answers: Iterable[Future[Any]]) -> None:
    for answer in answers:
        try:
            answer.result(timeout=DEADLINE_S)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise


def main() -> None:
    settings = TopicSettings()
    ensure(broker.admin(settings.identity_dir, settings.kafka_bootstrap), crossing())


if __name__ == "__main__":
    main()
