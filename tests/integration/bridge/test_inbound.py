"""Inward: what is in the log is in the warehouse, each event once, whatever dies in between."""

import random
import signal
from collections.abc import Callable

import psycopg
import pytest

from tests.integration.bridge import events
from tests.integration.bridge.cluster import Cluster, Room, until


@pytest.fixture(autouse=True)
def _clean(cluster: Cluster) -> None:
    events.empty(cluster.admin())


def count(database: psycopg.Connection, query: str) -> int:
    row = database.execute(query).fetchone()
    assert row is not None
    return int(row[0] or 0)


def landed(database: psycopg.Connection, table: str) -> int:
    return count(database, f"SELECT count(*) FROM warehouse.{table}")


def test_an_event_lands_as_it_was_sent(
    cluster: Cluster, database: psycopg.Connection, start_room: Callable[..., Room]
) -> None:
    sent = events.impression(7)
    events.send(cluster.producer(), [sent, events.click(7)])
    start_room("bridge-inbound")
    until(lambda: landed(database, "impression") + landed(database, "click") == 2, "both events land")
    row = database.execute(
        "SELECT replace(event_id::text, '-', ''), (extract(epoch FROM source_time) * 1000000)::bigint,"
        " (extract(epoch FROM accepted_time) * 1000000)::bigint, features, replace(trace_id::text, '-', ''), slot"
        " FROM warehouse.impression"
    ).fetchone()
    features = dict(sent.features)
    assert row == (sent.event_id, sent.source_time_us, sent.accepted_time_us, features, events.TRACE_ID, "position-2")


def test_repeats_of_an_event_are_one_row(
    cluster: Cluster, database: psycopg.Connection, start_room: Callable[..., Room]
) -> None:
    producer = cluster.producer()
    start_room("bridge-inbound")
    for _ in range(3):
        events.send(producer, map(events.click, range(500)))
    until(
        lambda: count(database, "SELECT sum(landed + duplicates) FROM bridge.checkpoint") == 1500,
        "all records are read",
    )
    assert landed(database, "click") == 500
    assert count(database, "SELECT sum(duplicates) FROM bridge.checkpoint") == 1000


def test_a_worker_killed_again_and_again_loses_and_doubles_nothing(
    cluster: Cluster, database: psycopg.Connection, start_room: Callable[..., Room]
) -> None:
    producer = cluster.producer()
    dice = random.Random(20)
    total = 0
    for round_ in range(4):
        room = start_room("bridge-inbound", inbound_batch_records_max=50)
        total += events.send(producer, map(events.click, range(round_ * 1000, (round_ + 1) * 1000)))
        aim = landed(database, "click") + dice.randrange(1, 700)
        until(lambda aim=aim: landed(database, "click") >= aim, f"{aim} clicks land")  # type: ignore[misc]
        room.end(signal.SIGKILL)
    start_room("bridge-inbound")
    until(lambda: landed(database, "click") == total, f"all {total} clicks land")
    assert count(database, "SELECT sum(landed) FROM bridge.checkpoint") == total
    assert count(database, "SELECT sum(duplicates + dead_letters) FROM bridge.checkpoint") == 0
