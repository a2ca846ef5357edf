"""More partitions and another cluster, and nothing lost on the way: what fenced writers keep lands from the new one."""

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from confluent_kafka import KafkaError, Producer
from isthmus.catalog.v1 import catalog_pb2

from deploy.local import topics
from deploy.local.errors import LauncherError
from deploy.local.kafka import moving
from deploy.local.mesh import LocalMesh
from sync_bridge.inbound.domain import NotDrained
from sync_bridge.inbound.store import Store
from sync_bridge.inbound.tables import TABLES
from sync_bridge.kafka import libpq_url
from tests.integration.bridge import events
from tests.integration.bridge.cluster import Cluster, Room, until
from tests.integration.conftest import Background
from tests.integration.room import own
from tests.ports import free_port_base

CLICK = events.topic_of(events.click(0))
CAMPAIGN = "isthmus.campaign.v1"
EVENTS = topics.crossing()
INWARD = [event.topic for event in EVENTS if not event.compacted]


@pytest.fixture(scope="module")
def target(kafka: Any, background: Background, tmp_path_factory: pytest.TempPathFactory) -> Iterator[moving.Cluster]:
    """Another cluster of the same trust domain."""
    home = tmp_path_factory.mktemp("other")
    shutil.copytree(kafka.identities.home / "ca", home / "ca")
    mesh = LocalMesh(home, free_port_base(), only=("topics",))
    background.run(mesh.start())
    yield moving.Cluster(mesh.kafka_bootstrap, kafka.identity("public", "kafka"))
    background.run(mesh.stop())


@pytest.fixture
def source(cluster: Cluster) -> Iterator[moving.Cluster]:
    events.empty(cluster.admin())
    found = moving.Cluster(cluster.bootstrap, cluster.broker)
    yield found
    # Others write into it after this.
    topics.ensure(found.admin(), EVENTS)


def refused(cluster: Cluster) -> bool:
    """Whether an edge node may not write: it keeps the event then."""
    outcome: list[KafkaError | None] = []
    event = events.click(99)
    producer = cluster.producer()
    producer.produce(
        CLICK,
        event.SerializeToString(),
        event.event_id,
        headers=events.headers(event),
        on_delivery=lambda error, _: outcome.append(error),
    )
    producer.flush(20)
    return bool(outcome) and outcome[0] is not None and outcome[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED


def landed(database: psycopg.Connection) -> dict[moving.Place, int]:
    found = database.execute("SELECT topic, partition, next_offset FROM bridge.checkpoint").fetchall()
    return {(topic, partition): offset for topic, partition, offset in found}


def drained(database: psycopg.Connection, ends: dict[moving.Place, int]) -> bool:
    at = landed(database)
    return all(at.get(place, -1) >= end for place, end in ends.items())


def test_a_cluster_is_left_for_another_and_every_event_lands_once(
    cluster: Cluster,
    source: moving.Cluster,
    target: moving.Cluster,
    database: psycopg.Connection,
    database_url: str,
    start_room: Callable[..., Room],
    request: pytest.FixtureRequest,
) -> None:
    outward = Producer(cluster.client("bridge-outbound"))
    for key, version in (("moved-a", 1), ("moved-b", 1), ("moved-a", 2)):
        outward.produce(CAMPAIGN, catalog_pb2.Campaign(campaign_id=key, version=version).SerializeToString(), key)
    outward.produce(CAMPAIGN, None, "moved-b")
    assert outward.flush(20) == 0
    events.send(cluster.producer(), map(events.click, range(50)))
    room = start_room("bridge-inbound", bridge_poll_s=0.1)

    moving.prepare(target, EVENTS)
    moving.fence(source, EVENTS)
    until(lambda: refused(cluster), "no edge node may write any more")
    ends, ids = moving.ends(source, INWARD), moving.topic_ids(target, INWARD)
    until(lambda: drained(database, ends), "everything has landed")
    store = Store(libpq_url(own(database_url, "bridge-inbound")), "operate", 10.0, TABLES)
    request.addfinalizer(store.close)
    with pytest.raises(NotDrained, match=CLICK), store.transaction():
        store.move_log({**ends, (CLICK, 0): ends[CLICK, 0] + 1}, ids)
    assert drained(database, ends), "all move, or none"
    copied = moving.copy_newest(source, target, CAMPAIGN)
    assert moving.copy_newest(target, target, CAMPAIGN) == copied >= 1
    with store.transaction():
        store.move_log(ends, ids)
    assert set(landed(database).values()) == {0}
    with store.transaction():
        store.move_log(ends, ids)
    assert set(landed(database).values()) == {0}, "a second time changes nothing"
    with pytest.raises(NotDrained), store.transaction():
        store.move_log(ends, {**ids, CLICK: "a third cluster's"})
    room.process.kill()
    room.process.wait(20)

    # What the spools kept, and what they had sent without yet letting go of it.
    moved = Cluster(target.bootstrap, cluster.identities, cluster.broker)
    start_room("bridge-inbound", "bridge-moved", kafka_bootstrap=target.bootstrap)
    before = database.execute("SELECT count(*) FROM warehouse.click").fetchall()[0][0]
    events.send(moved.producer(), map(events.click, range(40, 70)))
    until(lambda: sum(landed(database).values()) == 30, "everything has landed from the new cluster")
    rows = database.execute("SELECT count(*), count(DISTINCT event_id) FROM warehouse.click").fetchall()
    assert rows == [(before + 20, before + 20)]


def test_more_partitions_are_made_and_fewer_are_refused(target: moving.Cluster) -> None:
    topic = events.topic_of(events.impression(0))
    assert moving.grow(target, EVENTS, topic, 6) == 4
    assert moving.grow(target, EVENTS, topic, 6) == 6
    assert sorted(number for _, number in moving.ends(target, [topic])) == list(range(6))
    # The contract's own number takes none away again.
    topics.ensure(target.admin(), EVENTS)
    assert len(moving.ends(target, [topic])) == 6
    for name, count, why in ((topic, 5, "has 6"), (topic, 65, "cannot have 65"), (CAMPAIGN, 8, "compacted")):
        with pytest.raises(LauncherError, match=why):
            moving.grow(target, EVENTS, name, count)
    with pytest.raises(LauncherError, match="no topic"):
        moving.grow(target, EVENTS, "isthmus.other.v1", 8)
