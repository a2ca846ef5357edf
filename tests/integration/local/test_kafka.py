"""The broker: mutual TLS 1.3 on every port, and everyone only what the contract gives him."""

import asyncio
import contextlib
import socket
import ssl
import time
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType
from cryptography import x509

from chaos.drill.topics import deletion_refused
from deploy.local.events import topic_faults
from deploy.local.health import tls_context
from deploy.local.kafka import broker
from deploy.local.topics import RETENTION_MS, crossing, ensure
from mesh.contract.model import Direction
from mesh.control.probes import Outcome, over_kafka
from mesh.spiffe import SpiffeId
from mesh.tls import Identity
from tests.integration.conftest import Kafka

DEADLINE_S = 20.0
EVENTS = crossing()
INWARD = next(event.topic for event in EVENTS if event.direction is Direction.INWARD)
OUTWARD = next(event.topic for event in EVENTS if event.direction is Direction.OUTWARD)


def handshake(port: int, context: ssl.SSLContext) -> tuple[str | None, x509.Certificate]:
    with (
        socket.create_connection(("127.0.0.1", port), 5) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as tls,
    ):
        # TLS 1.3 refuses a client's certificate only after the client's side of the handshake is done.
        tls.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            assert tls.recv(1) != b"", "the broker closed the connection"
        certificate = tls.getpeercert(binary_form=True)
        assert certificate is not None
        return tls.version(), x509.load_der_x509_certificate(certificate)


def ports(kafka: Kafka) -> list[int]:
    return [listen.port for listen in kafka.mesh.process("kafka").row.process.listens]


def write(kafka: Kafka, zone: str, workload: str, topic: str, idempotent: bool = True) -> KafkaError | None:
    """The broker's answer to one record; None when it took it."""
    answers: list[KafkaError | None] = []
    producer = Producer(
        {**kafka.settings(zone, workload), "enable.idempotence": idempotent, "message.timeout.ms": 15000}
    )
    producer.produce(topic, b"value", b"key", on_delivery=lambda error, _: answers.append(error))
    producer.flush(DEADLINE_S)
    return answers[0]


def read(kafka: Kafka, zone: str, workload: str, topic: str) -> KafkaError | None:
    """The broker's answer to a fetch from the beginning; None when a record came."""
    settings = {**kafka.settings(zone, workload), "group.id": f"isthmus.{workload}", "enable.auto.commit": False}
    # Other tests cut these topics short: by default a reader whose place is gone waits at the end.
    settings["auto.offset.reset"] = "earliest"
    consumer = Consumer(settings)
    try:
        consumer.assign([TopicPartition(topic, partition, 0) for partition in range(4)])
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            message = consumer.poll(0.5)
            if message is None:
                continue
            error = message.error()
            if error is None or error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                return error
        raise AssertionError("no answer")
    finally:
        consumer.close()


def test_every_port_speaks_tls_1_3(kafka: Kafka) -> None:
    context = tls_context(kafka.identity("public", "edge"))
    assert [handshake(port, context)[0] for port in ports(kafka)] == ["TLSv1.3"] * 2


def test_every_port_refuses_tls_1_2(kafka: Kafka) -> None:
    context = tls_context(kafka.identity("public", "edge"))
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    for port in ports(kafka):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            handshake(port, context)


def test_every_port_refuses_a_client_without_a_certificate(kafka: Kafka) -> None:
    context = ssl.create_default_context(cafile=str(kafka.identity("public", "edge") / "bundle.pem"))
    for port in ports(kafka):
        with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
            handshake(port, context)


def test_the_edge_writes_inward_events_and_the_inbound_bridge_reads_them(kafka: Kafka) -> None:
    assert write(kafka, "public", "edge", INWARD) is None
    assert read(kafka, "private", "bridge-inbound", INWARD) is None


def test_the_outbound_bridge_writes_outward_events_and_the_edge_reads_them(kafka: Kafka) -> None:
    assert write(kafka, "private", "bridge-outbound", OUTWARD) is None
    assert read(kafka, "public", "edge", OUTWARD) is None


@pytest.mark.parametrize(
    ("zone", "workload", "topic"),
    [
        ("public", "edge", OUTWARD),
        ("private", "bridge-outbound", INWARD),
        ("private", "bridge-inbound", INWARD),
        ("private", "operator", INWARD),
    ],
)
def test_nobody_else_writes(kafka: Kafka, zone: str, workload: str, topic: str) -> None:
    # Without idempotence, so that the topic is what is refused, and not already the producer's id.
    error = write(kafka, zone, workload, topic, idempotent=False)
    assert error is not None
    assert error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED


def test_nobody_else_reads(kafka: Kafka) -> None:
    assert write(kafka, "public", "edge", INWARD) is None
    error = read(kafka, "public", "edge", INWARD)
    assert error is not None
    assert error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED


def test_a_topic_outside_the_contract_is_not_made_by_using_it(kafka: Kafka) -> None:
    admin = broker.admin(kafka.identity("public", "kafka"), kafka.bootstrap)
    admin.list_topics("isthmus.unknown.v1", timeout=DEADLINE_S)
    assert "isthmus.unknown.v1" not in admin.list_topics(timeout=DEADLINE_S).topics


def test_settings_that_somebody_altered_come_back_and_nothing_else_changes(kafka: Kafka) -> None:
    identity = kafka.identity("public", "kafka")
    admin = broker.admin(identity, kafka.bootstrap)
    assert topic_faults(identity, kafka.bootstrap) == []
    # One that the contract states, and one that it leaves to the cluster.
    altered = {"retention.ms": "86400000", "segment.ms": "3600000"}
    entries = [ConfigEntry(*one, incremental_operation=AlterConfigOpType.SET) for one in altered.items()]
    inward = ConfigResource(ResourceType.TOPIC, INWARD)
    for answer in admin.incremental_alter_configs(
        [ConfigResource(ResourceType.TOPIC, INWARD, incremental_configs=entries)], request_timeout=DEADLINE_S
    ).values():
        answer.result(DEADLINE_S)
    assert topic_faults(identity, kafka.bootstrap) == [f"{INWARD} has retention.ms 86400000, not {RETENTION_MS}"]
    ensure(admin, EVENTS)
    assert topic_faults(identity, kafka.bootstrap) == []
    (settings,) = [answer.result(DEADLINE_S) for answer in admin.describe_configs([inward]).values()]
    assert settings["segment.ms"].value == "3600000"


def test_nobody_but_the_broker_alters_the_cluster(kafka: Kafka) -> None:
    admin = broker.admin(kafka.identity("private", "bridge-inbound"), kafka.bootstrap)
    (answer,) = admin.create_topics([NewTopic("isthmus.other.v1", 1, 1)], request_timeout=10).values()
    with pytest.raises(KafkaException, match=r"TOPIC_AUTHORIZATION_FAILED|authorization"):
        answer.result(DEADLINE_S)


async def test_a_rotated_certificate_is_served_without_a_restart(kafka: Kafka) -> None:
    context = tls_context(kafka.identity("public", "edge"))
    pid = kafka.mesh.process("kafka").pid
    before = {port: handshake(port, context)[1].serial_number for port in ports(kafka)}
    # The zone's agent sees a leaf that is about to end, and issues a new one.
    kafka.identities.issue("public", "kafka", ttl=timedelta(minutes=1))
    deadline = time.monotonic() + DEADLINE_S
    for port in ports(kafka):
        while handshake(port, context)[1].serial_number == before[port]:
            assert time.monotonic() < deadline, f"port {port} still serves the old certificate"
            await asyncio.sleep(0.2)
    assert kafka.mesh.process("kafka").pid == pid


def test_no_topic_is_deleted_though_the_brokers_own_identity_asks(kafka: Kafka) -> None:
    cluster: Any = SimpleNamespace(kafka_identity=kafka.identity("public", "kafka"), kafka_bootstrap=kafka.bootstrap)
    assert "disabled" in deletion_refused(cluster, INWARD)


async def test_it_answers_the_probe_of_a_control_plane(kafka: Kafka) -> None:
    identity = Identity(kafka.identity("public", "control-public"))
    listen = kafka.mesh.process("kafka").row.process.listen("kafka")
    async with over_kafka(str(listen), identity, SpiffeId("public", "kafka")) as probe:
        assert [await probe.ask(DEADLINE_S) for _ in range(3)] == [Outcome.SERVING] * 3
