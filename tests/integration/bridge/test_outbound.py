"""Outward: committed changes reach the edge in their order, and what may not leave does not."""

import signal
import threading
from collections.abc import Callable, Iterator

import psycopg
import pytest
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from isthmus.catalog.v1 import catalog_pb2
from isthmus.members.v1 import members_pb2
from opentelemetry import metrics

from mesh import contract
from mesh.clock import SystemClock
from security.audit.alerts import RULES, read_rules
from security.audit.record import Decision
from sync_bridge.outbound.gate import Gate
from sync_bridge.outbound.meters import Meters
from sync_bridge.outbound.relay import AUDITED_AS, Relay
from sync_bridge.outbound.settings import OutboundSettings
from tests.integration.bridge.cluster import Cluster, Room, until
from tests.integration.room import own

TOPIC = "isthmus.campaign.v1"


def campaign(key: str, version: int) -> bytes:
    creative = catalog_pb2.AdCreative(
        creative_id="c-1", title="A", image_url="https://cdn.example/a.png", landing_url="https://shop.example/a"
    )
    return catalog_pb2.Campaign(
        campaign_id=key, slots=["position-1"], weight=1, creatives=[creative], version=version
    ).SerializeToString()


def append(database: psycopg.Connection, key: str, payload: bytes | None, topic: str = TOPIC) -> None:
    database.execute("INSERT INTO outbox.event (topic, key, payload) VALUES (%s, %s, %s)", (topic, key, payload))


def waiting(database: psycopg.Connection) -> int:
    return database.execute("SELECT count(*) FROM outbox.event").fetchall()[0][0]  # type: ignore[no-any-return]


class Edge:
    """Reads the topic as an edge node does, from where it ended when the test began."""

    def __init__(self, cluster: Cluster) -> None:
        self._consumer = Consumer(
            cluster.client("edge") | {"group.id": "isthmus.snapshot-test", "auto.offset.reset": "error"}
        )
        _, high = self._consumer.get_watermark_offsets(TopicPartition(TOPIC, 0), 10)
        self._consumer.assign([TopicPartition(TOPIC, 0, high)])
        self.seen: list[Message] = []

    def versions(self) -> list[tuple[str, int | None]]:
        """(key, version) of each record so far; None for a tombstone."""
        for message in self._consumer.consume(1000, 0.1):
            if (error := message.error()) is not None:
                raise KafkaException(error)
            self.seen.append(message)
        return [
            ((message.key() or b"").decode(), catalog_pb2.Campaign.FromString(value).version if value else None)
            for message in self.seen
            for value in [message.value()]
        ]

    def close(self) -> None:
        self._consumer.close()


@pytest.fixture
def edge(cluster: Cluster) -> Iterator[Edge]:
    reader = Edge(cluster)
    yield reader
    reader.close()


class Running:
    """A relay in a thread of this process."""

    def __init__(self, cluster: Cluster, database_url: str, node: str) -> None:
        self.settings = OutboundSettings(
            zone="private",
            workload="bridge-outbound",
            node=node,
            identity_dir=cluster.identities["bridge-outbound"],
            database_url=own(database_url, "bridge-outbound"),
            kafka_bootstrap=cluster.bootstrap,
            outbound_poll_s=0.02,
            outbound_standby_s=0.05,
        )
        meters = Meters(metrics.NoOpMeter("test"))
        self.relay = Relay(self.settings, Gate(contract.load()), meters, SystemClock())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.relay.run, args=(self._stop,), daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._stop.set()
        self._thread.join(20)
        self.relay.close()


@pytest.fixture
def start_relay(cluster: Cluster, database_url: str) -> Iterator[Callable[[str], Running]]:
    started: list[Running] = []

    def start(node: str) -> Running:
        started.append(Running(cluster, database_url, node))
        return started[-1]

    yield start
    for each in started:
        each.end()


def test_changes_arrive_in_order_and_leave_the_outbox_empty(
    database: psycopg.Connection, edge: Edge, start_relay: Callable[[str], Running]
) -> None:
    for version in range(1, 6):
        append(database, "summer", campaign("summer", version))
    append(database, "summer", None)
    start_relay("relay-1")
    until(lambda: len(edge.versions()) >= 6, "six records arrive")
    assert edge.versions() == [("summer", n) for n in range(1, 6)] + [("summer", None)]
    until(lambda: waiting(database) == 0, "the outbox is empty")
    headers = dict(edge.seen[0].headers() or [])
    assert (headers["kind"], headers["origin"]) == (b"isthmus.catalog.v1.Campaign", b"private")
    assert len(headers["event-id"] or b"") == 32


def test_the_last_state_committed_is_the_last_one_sent(
    database: psycopg.Connection,
    database_url: str,
    edge: Edge,
    start_relay: Callable[[str], Running],
) -> None:
    """Two transactions of one key: the second waits for the first, so that seq cannot contradict the commits.

    A third of another key passes both, and the relay has sent it when lower numbers turn up.
    """
    start_relay("relay-1")
    with (
        psycopg.connect(database.info.dsn) as first,
        psycopg.connect(database.info.dsn) as second,
    ):
        append(first, "summer", campaign("summer", 1))

        def write() -> None:
            append(second, "summer", campaign("summer", 2))
            second.commit()

        blocked = threading.Thread(target=write)
        blocked.start()
        append(database, "winter", campaign("winter", 1))
        until(lambda: edge.versions() == [("winter", 1)], "the other key passes")
        assert blocked.is_alive()
        first.commit()
        blocked.join(10)
    until(lambda: len(edge.versions()) >= 3, "both states arrive")
    assert edge.versions() == [("winter", 1), ("summer", 1), ("summer", 2)]


def test_what_is_rolled_back_is_never_sent(
    database: psycopg.Connection, edge: Edge, start_relay: Callable[[str], Running]
) -> None:
    start_relay("relay-1")
    with psycopg.connect(database.info.dsn) as undone:
        append(undone, "summer", campaign("summer", 1))
        undone.rollback()
    append(database, "summer", campaign("summer", 2))
    until(lambda: len(edge.versions()) >= 1, "the committed state arrives")
    assert edge.versions() == [("summer", 2)]


def test_a_leak_is_stopped_buried_and_put_on_record_and_the_rest_goes_on(
    database: psycopg.Connection, edge: Edge, start_relay: Callable[[str], Running]
) -> None:
    member = members_pb2.Member(member_id="m-1", phone="+8613900005511", name="Li").SerializeToString()
    append(database, "m-1", member, topic="isthmus.member.v1")
    append(database, "m-1", member)
    append(database, "summer", campaign("summer", 1) + b"\xfa\x07\x05hello")
    append(database, "summer", campaign("summer", 2))
    start_relay("relay-1")
    until(lambda: len(edge.versions()) >= 1, "the clean record arrives")
    until(lambda: waiting(database) == 0, "the outbox is empty")
    assert edge.versions() == [("summer", 2)]
    letters = database.execute("SELECT direction, cause FROM bridge.dead_letter ORDER BY position").fetchall()
    assert letters[0] == ("outward", "NOT_OUTWARD")
    assert letters[1][1] in {"UNREADABLE", "UNKNOWN_FIELD", "INVALID"}
    assert letters[2] == ("outward", "UNKNOWN_FIELD")

    found = database.execute("SELECT peer, method, decision, result, reason, data_subject FROM audit.record")
    records = sorted(found.fetchall(), key=lambda row: int(row[4].rpartition(" ")[2]))
    assert [(row[4].split()[:2]) for row in records] == [["LEAK_STOPPED", cause] for _, cause in letters]
    assert {row[:4] for row in records} == {
        ("spiffe://isthmus.internal/private/bridge-outbound", AUDITED_AS, Decision.DENIED, "PERMISSION_DENIED")
    }
    # Nothing of what was to leave: neither its key nor its values.
    assert not any("m-1" in str(row) or "+86139" in str(row) for row in records)
    (rule,) = [rule for rule in read_rules(RULES) if "LEAK_STOPPED" in rule.reasons]
    assert (rule.decision, rule.count) == ("denied", 1)


def test_one_relay_is_active_and_another_takes_over(
    database: psycopg.Connection, edge: Edge, start_relay: Callable[[str], Running]
) -> None:
    active, standby = start_relay("relay-1"), start_relay("relay-2")
    append(database, "summer", campaign("summer", 1))
    until(lambda: len(edge.versions()) == 1, "one relay sends")
    active.end()
    append(database, "summer", campaign("summer", 2))
    until(lambda: len(edge.versions()) == 2, "the other relay sends")
    assert edge.versions() == [("summer", 1), ("summer", 2)]
    assert standby.relay is not active.relay


def test_a_relay_that_lost_its_lock_unnoticed_cannot_send(
    database: psycopg.Connection, edge: Edge, start_relay: Callable[[str], Running]
) -> None:
    stale = start_relay("relay-1")
    append(database, "summer", campaign("summer", 1))
    until(lambda: waiting(database) == 0, "the first relay works")
    stale_producer = stale.relay._new_producer()
    fresh_producer = stale.relay._new_producer()
    stale_producer.begin_transaction()
    stale_producer.produce(TOPIC, campaign("summer", 99), "summer")
    with pytest.raises(KafkaException):
        stale_producer.commit_transaction(10)
    fresh_producer.begin_transaction()
    fresh_producer.produce(TOPIC, campaign("summer", 2), "summer")
    fresh_producer.commit_transaction(10)
    until(lambda: ("summer", 2) in edge.versions(), "the newer relay sends")
    assert ("summer", 99) not in edge.versions()


def test_the_process_runs_and_stops_when_asked(
    database: psycopg.Connection, edge: Edge, start_room: Callable[..., Room]
) -> None:
    room = start_room("bridge-outbound")
    append(database, "summer", campaign("summer", 1))
    until(lambda: len(edge.versions()) == 1, "the record arrives")
    assert room.end(signal.SIGTERM) == 0
