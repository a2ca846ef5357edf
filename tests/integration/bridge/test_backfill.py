"""Records that Kafka still holds land once more: rows that are not there, once, and nothing is counted twice."""

import time
from collections.abc import Iterator

import psycopg
import pytest
from confluent_kafka import Consumer

from mesh import contract
from mesh.errors import FailedPrecondition, NotFound
from sync_bridge.inbound import backfill
from sync_bridge.inbound.backfill import Compared, Landed, Span
from sync_bridge.inbound.decoder import Decoder
from sync_bridge.inbound.store import Store
from sync_bridge.inbound.tables import TABLES, by_topic
from sync_bridge.kafka import BridgeSettings, libpq_url
from tests.integration.bridge import events
from tests.integration.bridge.cluster import Cluster
from tests.integration.room import own

TOPIC = events.topic_of(events.click(0))
BY_TOPIC = by_topic(contract.load())
DECODER = Decoder(BY_TOPIC)
HOUR_MS = 3_600_000
# Young enough for Kafka to keep.
FIRST_MS = time.time_ns() // 1_000_000 - 24 * HOUR_MS


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store(libpq_url(own(database_url, "bridge-inbound")), "worker", 10.0, TABLES)
    yield store
    store.close()


@pytest.fixture
def consumer(cluster: Cluster, database_url: str) -> Iterator[Consumer]:
    events.empty(cluster.admin())
    settings = BridgeSettings(
        zone="private",
        workload="bridge-inbound",
        node="worker",
        identity_dir=cluster.identities["bridge-inbound"],
        database_url=own(database_url, "bridge-inbound"),
        kafka_bootstrap=cluster.bootstrap,
    )
    consumer = backfill.open_consumer(settings)
    yield consumer
    consumer.close()


def send(cluster: Cluster, count: int) -> None:
    """Clicks in partition 0, an hour apart."""
    producer = cluster.producer()
    for number in range(count):
        event = events.click(number)
        producer.produce(
            TOPIC,
            event.SerializeToString(),
            event.event_id,
            partition=0,
            headers=events.headers(event),
            timestamp=FIRST_MS + number * HOUR_MS,
        )
    assert producer.flush(30) == 0


def land(consumer: Consumer, store: Store, span: Span, *, shadow: bool = False) -> Landed:
    return backfill.land_again(consumer, store, DECODER, TOPIC, span, shadow=shadow)


def count(database: psycopg.Connection, what: str) -> int:
    return database.execute(f"SELECT count(*) FROM {what}").fetchall()[0][0]  # type: ignore[no-any-return]


def test_lost_rows_of_a_time_range_come_back_and_nothing_is_counted(
    cluster: Cluster, consumer: Consumer, store: Store, database: psycopg.Connection
) -> None:
    send(cluster, 10)
    whole = backfill.find(consumer, TOPIC, 0, 0)[0]
    assert whole.end - whole.begin == 10
    part = backfill.find(consumer, TOPIC, (FIRST_MS + 2 * HOUR_MS) * 1000, (FIRST_MS + 5 * HOUR_MS) * 1000)
    assert part[0] == Span(0, whole.begin + 2, whole.begin + 5)
    assert all(span.begin == span.end for span in part[1:])

    assert land(consumer, store, part[0]) == Landed(3, 3, 0, 0, part[0].end)
    assert land(consumer, store, whole) == Landed(10, 7, 3, 0, whole.end)
    database.execute("DELETE FROM warehouse.click WHERE slot = 'position-1'")
    assert land(consumer, store, whole) == Landed(10, 4, 6, 0, whole.end)
    assert count(database, "warehouse.click") == 10
    assert count(database, "bridge.ledger") == 0


def test_what_lies_among_the_dead_letters_stays_there_and_what_is_refused_holds_nobody_up(
    cluster: Cluster, consumer: Consumer, store: Store, database: psycopg.Connection
) -> None:
    send(cluster, 6)
    whole = backfill.find(consumer, TOPIC, 0, 0)[0]
    database.execute(
        "INSERT INTO bridge.dead_letter (direction, topic, partition, position, cause, detail, headers, state)"
        " VALUES ('inward', %s, 0, %s, 'UNREADABLE', '', '[]', 'dropped')",
        (TOPIC, whole.begin),
    )
    database.execute("ALTER TABLE warehouse.click ADD CONSTRAINT refused CHECK (slot <> 'position-2') NOT VALID")
    assert land(consumer, store, whole) == Landed(6, 3, 0, 3, whole.end)
    assert count(database, "bridge.dead_letter") == 1


def test_a_shadow_shows_what_the_table_has_not_and_what_it_has_otherwise(
    cluster: Cluster, consumer: Consumer, store: Store, database: psycopg.Connection
) -> None:
    send(cluster, 9)
    whole = backfill.find(consumer, TOPIC, 0, 0)[0]
    table = BY_TOPIC[TOPIC]
    with pytest.raises(NotFound, match="NO_SHADOW"):
        backfill.compare(store, table, drop=False)
    land(consumer, store, whole)
    assert land(consumer, store, whole, shadow=True).landed == 9
    assert backfill.compare(store, table, drop=False) == Compared(9, 0, 0)
    database.execute("DELETE FROM warehouse.click WHERE slot = 'position-1'")
    database.execute("UPDATE warehouse.click SET crawler = true WHERE slot = 'position-2'")
    assert backfill.compare(store, table, drop=True) == Compared(9, 3, 3)
    with pytest.raises(NotFound, match="NO_SHADOW"):
        backfill.compare(store, table, drop=False)


def test_what_kafka_has_removed_is_said_and_not_skipped(cluster: Cluster, consumer: Consumer, store: Store) -> None:
    send(cluster, 4)
    span = backfill.find(consumer, TOPIC, 0, 0)[0]
    events.empty(cluster.admin())
    send(cluster, 1)
    with pytest.raises(FailedPrecondition, match="RECORDS_GONE"):
        land(consumer, store, Span(0, span.begin, span.end + 1))
