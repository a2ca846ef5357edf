"""Inward sessions against a real broker and database that go away, change or lose records."""

import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from opentelemetry import metrics

from deploy.local.mesh import LocalMesh
from mesh import contract
from mesh.clock import SystemClock
from mesh.errors import DataLoss
from sync_bridge.inbound.decoder import Decoder
from sync_bridge.inbound.meters import Meters
from sync_bridge.inbound.session import Session
from sync_bridge.inbound.settings import InboundSettings
from sync_bridge.inbound.tables import by_topic
from sync_bridge.kafka import libpq_url
from sync_bridge.worker import Interrupted
from tests.integration.bridge import events
from tests.integration.bridge.cluster import Cluster, Room, until
from tests.integration.room import own

TOPIC = events.topic_of(events.click(0))


@pytest.fixture(autouse=True)
def _clean(cluster: Cluster) -> None:
    events.empty(cluster.admin())


class Running:
    """A session in a thread of this process; `error` is what ended it."""

    def __init__(self, cluster: Cluster, database_url: str, node: str, group: str) -> None:
        settings = InboundSettings(
            zone="private",
            workload="bridge-inbound",
            node=node,
            identity_dir=cluster.identities["bridge-inbound"],
            database_url=own(database_url, "bridge-inbound"),
            kafka_bootstrap=cluster.bootstrap,
            inbound_group=group,
            inbound_session_s=6,
            inbound_topic_check_s=0.5,
        )
        tables = by_topic(contract.load())
        clock = SystemClock()
        meters = Meters(metrics.NoOpMeter("test"), clock)
        self.error: BaseException | None = None
        self.stop = threading.Event()
        self._session = Session(settings, tables, Decoder(tables), meters, clock)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._session.run(self.stop)
        except BaseException as error:
            self.error = error
        finally:
            self._session.close()

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    def end(self) -> None:
        self.stop.set()
        self._thread.join(20)


@pytest.fixture
def start(cluster: Cluster, database_url: str) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []
    group = f"isthmus.test-{database_url.rpartition('/')[2].partition('?')[0]}"

    def start_session(node: str = "worker-1") -> Running:
        started.append(Running(cluster, database_url, node, group))
        return started[-1]

    yield start_session
    for each in started:
        each.end()


def landed(database: psycopg.Connection) -> int:
    return database.execute("SELECT count(*) FROM warehouse.click").fetchall()[0][0]  # type: ignore[no-any-return]


def test_a_session_goes_on_where_the_one_before_stopped(
    cluster: Cluster, database: psycopg.Connection, start: Callable[..., Running]
) -> None:
    producer = cluster.producer()
    for number in range(3):
        running = start()
        events.send(producer, map(events.click, range(number * 100, number * 100 + 100)))
        until(lambda number=number: landed(database) == (number + 1) * 100, "the clicks land")  # type: ignore[misc]
        running.end()
        assert running.error is None
    counted = database.execute("SELECT sum(landed), sum(duplicates) FROM bridge.checkpoint WHERE topic = %s", (TOPIC,))
    assert counted.fetchall() == [(300, 0)]


def test_records_removed_before_they_landed_stop_the_bridge_loudly(
    cluster: Cluster, database: psycopg.Connection, start: Callable[..., Running]
) -> None:
    producer = cluster.producer()
    running = start()
    events.send(producer, map(events.click, range(50)))
    until(lambda: landed(database) == 50, "the clicks land")
    running.end()
    events.send(producer, map(events.click, range(50, 100)))
    events.empty(cluster.admin())
    again = start()
    until(lambda: again.over, "the session ends")
    assert isinstance(again.error, DataLoss)
    assert "removed before they landed" in again.error.message
    assert landed(database) == 50


def test_a_topic_made_anew_stops_the_bridge_while_it_runs(
    cluster: Cluster, database: psycopg.Connection, start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    running = start()
    events.send(cluster.producer(), [events.click(1)])
    until(lambda: landed(database) == 1, "the click lands")
    monkeypatch.setitem(running._session._topic_ids, TOPIC, "another")
    until(lambda: running.over, "the session ends")
    assert isinstance(running.error, DataLoss)
    assert "made anew" in running.error.message


def test_a_topic_made_anew_between_sessions_stops_the_bridge(
    cluster: Cluster, database: psycopg.Connection, start: Callable[..., Running]
) -> None:
    running = start()
    events.send(cluster.producer(), [events.click(1)])
    until(lambda: landed(database) == 1, "the click lands")
    running.end()
    database.execute("UPDATE bridge.checkpoint SET topic_id = 'the one before'")
    again = start()
    until(lambda: again.over, "the session ends")
    assert isinstance(again.error, DataLoss)


def test_a_frozen_worker_that_wakes_up_after_its_partitions_went_to_another_is_fenced(
    cluster: Cluster, database: psycopg.Connection, start: Callable[..., Running]
) -> None:
    first = start("worker-1")
    events.send(cluster.producer(), map(events.click, range(20)))
    until(lambda: landed(database) == 20, "the clicks land")
    # What a second worker's claim does, while the first still believes that it holds the partitions.
    database.execute("UPDATE bridge.checkpoint SET epoch = epoch + 1, worker = 'worker-2'")
    events.send(cluster.producer(), map(events.click, range(20, 40)))
    until(lambda: first.over, "the session ends")
    assert isinstance(first.error, Interrupted)
    assert landed(database) == 20
    start("worker-1")
    until(lambda: landed(database) == 40, "the rest lands")


def test_two_workers_share_the_partitions(
    cluster: Cluster, database: psycopg.Connection, start: Callable[..., Running]
) -> None:
    start("worker-1")
    events.send(cluster.producer(), map(events.click, range(20)))
    until(lambda: landed(database) == 20, "the clicks land")
    start("worker-2")
    workers = "SELECT count(DISTINCT worker) FROM bridge.checkpoint"
    until(lambda: database.execute(workers).fetchall() == [(2,)], "both hold partitions")
    events.send(cluster.producer(), map(events.click, range(20, 500)))
    until(lambda: landed(database) == 500, "all land")
    assert database.execute("SELECT sum(duplicates) FROM bridge.checkpoint").fetchall() == [(0,)]


def test_a_partition_that_is_read_for_the_first_time_skips_nothing(
    cluster: Cluster, database: psycopg.Connection, start: Callable[..., Running]
) -> None:
    events.send(cluster.producer(), map(events.click, range(100)))
    start()
    until(lambda: landed(database) == 100, "what was sent before lands")


def test_kafka_and_postgres_may_go_away_and_everything_arrives(
    cluster: Cluster,
    kafka: Any,
    postgres_server: LocalMesh,
    background: Any,
    database_url: str,
    start_room: Callable[..., Room],
) -> None:
    def count() -> int:
        with psycopg.connect(libpq_url(database_url)) as connection:
            return landed(connection)

    room = start_room("bridge-inbound")
    events.send(cluster.producer(), map(events.click, range(100)))
    until(lambda: count() == 100, "the first clicks land")
    background.run(postgres_server.suspend("postgres"))
    events.send(cluster.producer(), map(events.click, range(100, 200)))
    background.run(postgres_server.resume("postgres"))
    background.run(postgres_server.wait_ready("postgres"))
    until(lambda: count() == 200, "what came while PostgreSQL was away lands")
    kafka.suspend()
    kafka.resume()
    events.send(cluster.producer(), map(events.click, range(200, 300)))
    until(lambda: count() == 300, "what came after Kafka was away lands")
    assert room.end(signal.SIGTERM) == 0
