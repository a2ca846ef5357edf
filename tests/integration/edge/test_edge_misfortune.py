"""What an operator, or somebody by mistake, does to a broker while a spool is shipped to it. On a broker of its own."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaException, ThrottleEvent
from isthmus.events.v1 import events_pb2

from deploy.local import topics
from deploy.local.kafka import broker
from deploy.local.mesh import LocalMesh
from mesh.contract import load
from public_edge.kafka import KafkaAccess
from public_edge.spool.event import Kind, pack
from public_edge.spool.shipper import Shipper
from public_edge.spool.spool import Spool
from tests.integration.conftest import Background, Identities, Kafka
from tests.integration.edge.test_edge_kafka import LEDGER, TOPICS, event_id, landed, until
from tests.ports import free_port_base

CLICK = load().events[Kind.CLICK.message]


@pytest.fixture(scope="module")
def lax(tmp_path_factory: pytest.TempPathFactory, background: Background) -> Iterator[Kafka]:
    """A broker on which topics can be deleted."""
    identities = Identities(tmp_path_factory.mktemp("lax"))
    strict = broker._properties
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(broker, "_properties", lambda *told: strict(*told) | {"delete.topic.enable": "true"})
        mesh = LocalMesh(identities.home, free_port_base(), only=("topics",))
        background.run(mesh.start())
    yield Kafka(mesh.kafka_bootstrap, identities, mesh, background)
    background.run(mesh.stop())


@pytest.fixture
def ship(lax: Kafka, tmp_path: Path) -> Iterator[Callable[..., tuple[Spool, Shipper]]]:
    """A spool that is shipped; further settings of the producer may be named."""
    running: list[tuple[Spool, Shipper]] = []

    def start(**settings: Any) -> tuple[Spool, Shipper]:
        class Access(KafkaAccess):
            def options(self) -> dict[str, Any]:
                return super().options() | settings

        spool = Spool(tmp_path)
        access = Access(lax.bootstrap, lax.identity("public", "edge"), "edge-1")
        shipper = Shipper(spool, access, TOPICS, LEDGER, "edge-1")
        shipper.start()
        running.append((spool, shipper))
        return spool, shipper

    yield start
    for spool, shipper in running:
        shipper.stop(5)
        spool.close()


def append(spool: Spool, numbers: range, body: Callable[[], bytes] = bytes) -> frozenset[str]:
    for number in numbers:
        spool.append(pack(Kind.CLICK, event_id(number), "", body()))
    return frozenset(event_id(number).hex() for number in numbers)


def incompressible() -> bytes:
    return events_pb2.Click(campaign_id=os.urandom(200).hex()).SerializeToString()


def quota(lax: Kafka, *change: str) -> None:
    """As an operator sets it: by the program that comes with Kafka."""
    identity = lax.identity("public", "kafka")
    told = lax.identities.home / "operator.properties"
    told.write_text(
        "security.protocol=SSL\nssl.keystore.type=PEM\nssl.truststore.type=PEM\n"
        f"ssl.keystore.location={identity / 'keypair.pem'}\nssl.truststore.location={identity / 'bundle.pem'}\n"
    )
    program = ["java", "-cp", f"{broker.libraries(lax.mesh.settings.cache)}/*", "kafka.admin.ConfigCommand"]
    where = ["--bootstrap-server", lax.bootstrap, "--command-config", str(told), "--entity-type", "users"]
    whom = ["--entity-name", "edge.public", "--alter"]
    done = subprocess.run([*program, *where, *whom, *change], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_quota_slows_shipping_down_and_loses_nothing(lax: Kafka, ship: Callable[..., tuple[Spool, Shipper]]) -> None:
    quota(lax, "--add-config", "producer_byte_rate=10000")
    held_back: list[ThrottleEvent] = []
    try:
        # Some 16,000 bytes a second over the ten that a quota looks at, in several requests: the broker makes a client
        # wait after the one that was too much.
        spool, shipper = ship(throttle_cb=held_back.append, **{"batch.size": 4_000})
        wanted = append(spool, range(300), incompressible)
        until(lambda: any(each.throttle_time > 0 for each in held_back), "the broker holds the node back")
    finally:
        quota(lax, "--delete-config", "producer_byte_rate")
    until(lambda: spool.acknowledged == spool.written, "everything is shipped")
    assert landed(lax, Kind.CLICK, wanted).keys() == wanted
    assert (shipper.counters.restarts, shipper.counters.hopeless) == (0, 0)


def test_what_is_spooled_goes_into_a_topic_that_was_made_anew(
    lax: Kafka, ship: Callable[..., tuple[Spool, Shipper]]
) -> None:
    spool, shipper = ship()
    before = append(spool, range(1_000, 1_100))
    until(lambda: spool.acknowledged == spool.written, "the first hundred is shipped")
    assert landed(lax, Kind.CLICK, before).keys() == before
    admin = broker.admin(lax.identity("public", "kafka"), lax.bootstrap)
    admin.delete_topics([CLICK.topic], request_timeout=30)[CLICK.topic].result(40)
    meanwhile = append(spool, range(1_100, 1_200))
    until(lambda: made_anew(admin), "the topic is there again")
    after = append(spool, range(1_200, 1_300))
    until(lambda: spool.acknowledged == spool.written, "the rest is shipped")
    wanted = meanwhile | after
    assert landed(lax, Kind.CLICK, wanted).keys() == wanted
    assert shipper.counters.hopeless == 0


def made_anew(admin: Any) -> bool:
    """Refused for as long as the broker takes to remove the one before."""
    try:
        topics.ensure(admin, [CLICK])
    except KafkaException:
        return False
    return CLICK.topic in admin.list_topics(timeout=10).topics
