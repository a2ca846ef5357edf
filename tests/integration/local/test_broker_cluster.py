"""Three brokers: one may be killed, and everything is written and read meanwhile."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from deploy.local.kafka import broker
from deploy.local.mesh import LocalMesh
from mesh import contract
from mesh.contract.model import Direction
from tests.integration.conftest import Background, Identities
from tests.ports import free_port_base

DEADLINE_S = 60.0
RECORDS = 50
INWARD = next(event.topic for event in contract.load().events.values() if event.direction is Direction.INWARD)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory, background: Background) -> Iterator[LocalMesh]:
    mesh = LocalMesh(tmp_path_factory.mktemp("three"), free_port_base(), kafka_brokers=3, only=("topics",))
    background.run(mesh.start())
    yield mesh
    background.run(mesh.stop())


def client(mesh: LocalMesh, zone: str, workload: str) -> dict[str, str | int | float | bool]:
    identity: Path = Identities(mesh.home.root).issue(zone, workload, f"client-{workload}")
    return broker.client_settings(identity, mesh.kafka_bootstrap)


def admin(mesh: LocalMesh) -> AdminClient:
    return broker.admin(mesh.home.identity("kafka-1"), mesh.kafka_bootstrap)


def test_every_partition_has_three_replicas(three: LocalMesh) -> None:
    topics = admin(three).list_topics(timeout=DEADLINE_S).topics
    replicas = {len(one.replicas) for topic in topics.values() for one in topic.partitions.values()}
    assert INWARD in topics
    assert replicas == {3}


def test_a_killed_leader_stops_neither_writers_nor_readers(three: LocalMesh) -> None:
    leader = admin(three).list_topics(INWARD, timeout=DEADLINE_S).topics[INWARD].partitions[0].leader
    answers: list[KafkaError | None] = []
    producer = Producer(
        {**client(three, "public", "edge"), "enable.idempotence": True, "acks": "all", "message.timeout.ms": 0}
    )

    def write() -> None:
        for _ in range(RECORDS):
            producer.produce(INWARD, b"value", partition=0, on_delivery=lambda error, _: answers.append(error))
        assert producer.flush(DEADLINE_S) == 0

    write()
    # Killed and held down, so that it is the others who serve. It stays away until the end.
    three.process(f"kafka-{leader}").wanted.clear()
    three.kill(f"kafka-{leader}")
    write()
    assert answers == [None] * 2 * RECORDS
    assert read(three, 2 * RECORDS) == 2 * RECORDS


def read(mesh: LocalMesh, wanted: int) -> int:
    consumer = Consumer(
        {**client(mesh, "private", "bridge-inbound"), "group.id": "isthmus.cluster", "enable.auto.commit": False}
    )
    consumer.assign([TopicPartition(INWARD, 0, 0)])
    found, deadline = 0, time.monotonic() + DEADLINE_S
    while found < wanted and time.monotonic() < deadline:
        message = consumer.poll(0.5)
        found += message is not None and message.error() is None
    consumer.close()
    return found
