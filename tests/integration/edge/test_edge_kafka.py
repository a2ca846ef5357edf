"""Spool to Kafka and Kafka to snapshot, against a real broker."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from isthmus.catalog.v1 import catalog_pb2
from isthmus.events.v1 import events_pb2

from deploy.local.kafka import broker
from mesh.clock import SystemClock
from mesh.contract import load
from public_edge.ads.catalogue import Catalogue, Share
from public_edge.ads.domain import Chooser
from public_edge.content.domain import Shelf
from public_edge.content.reading import Reader
from public_edge.kafka import KafkaAccess
from public_edge.recorder import Recorder
from public_edge.snapshot import state
from public_edge.snapshot.consumer import SnapshotConsumer
from public_edge.snapshot.publisher import Publisher
from public_edge.snapshot.state import Source
from public_edge.spool.event import Kind, pack
from public_edge.spool.shipper import Shipper
from public_edge.spool.spool import Spool, SpoolLimits

TOPICS = {kind: load().events[kind.message].topic for kind in Kind}
LEDGER = load().events["isthmus.events.v1.SpoolLedger"].topic
SOURCES = {load().events[source.message].topic: source for source in Source}
# Other tests cut these topics short. By default a reader whose place is gone goes on at the end, past everything.
FROM_WHAT_IS_THERE = {"enable.auto.commit": False, "auto.offset.reset": "earliest"}
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


def until(held: Callable[[], bool], what: str, within_s: float = 90.0) -> None:
    deadline = time.monotonic() + within_s
    while not held():
        assert time.monotonic() < deadline, what

        asyncio.run(asyncio.sleep(0.05))


def event_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


def landed(kafka, kind: Kind, wanted: frozenset[str]) -> dict[str, dict[str, bytes]]:  # type: ignore[no-untyped-def]
    """The headers of every wanted event that is in Kafka, by key."""
    settings = kafka.settings("private", "bridge-inbound")
    consumer = Consumer(settings | {"group.id": "isthmus.edge-test"} | FROM_WHAT_IS_THERE)
    found: dict[str, dict[str, bytes]] = {}
    try:
        partitions = consumer.list_topics(TOPICS[kind], timeout=10).topics[TOPICS[kind]].partitions
        consumer.assign([TopicPartition(TOPICS[kind], number, OFFSET_BEGINNING) for number in partitions])
        deadline = time.monotonic() + 60
        while found.keys() != wanted and time.monotonic() < deadline:
            for message in consumer.consume(1000, 0.2):
                assert message.error() is None, message.error()
                key = (message.key() or b"").decode()
                if key in wanted:
                    found[key] = dict(message.headers() or ())  # type: ignore[arg-type]
    finally:
        consumer.close()
    return found


def told(kafka, enough: Callable[[list[events_pb2.SpoolLedger]], bool]) -> list[events_pb2.SpoolLedger]:  # type: ignore[no-untyped-def]
    """The lines of the ledger that are in Kafka, each id once, as soon as they are enough."""
    settings = kafka.settings("private", "bridge-inbound")
    consumer = Consumer(settings | {"group.id": "isthmus.edge-ledger-test"} | FROM_WHAT_IS_THERE)
    found: dict[str, events_pb2.SpoolLedger] = {}
    try:
        consumer.assign([TopicPartition(LEDGER, 0, OFFSET_BEGINNING)])
        deadline = time.monotonic() + 60
        while not enough(list(found.values())) and time.monotonic() < deadline:
            for message in consumer.consume(1000, 0.2):
                line = events_pb2.SpoolLedger.FromString(message.value() or b"")
                found[line.event_id] = line
    finally:
        consumer.close()
    return list(found.values())


def test_everything_spooled_lands_with_its_headers_though_kafka_goes_away(kafka, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    spool = Spool(tmp_path, SpoolLimits(segment_bytes=1 << 16))
    access = KafkaAccess(kafka.bootstrap, kafka.identity("public", "edge"), "edge-1")
    shipper = Shipper(spool, access, TOPICS, LEDGER, "edge-1")
    minute_us = (time.time_ns() // 60_000_000_000 - 5) * 60_000_000
    body = events_pb2.Click(accepted_time_us=minute_us + 1).SerializeToString()
    shipper.start()
    try:
        for number in range(1000):
            spool.append(pack(Kind.CLICK, event_id(number), TRACE, body))
        until(lambda: spool.acknowledged == 1000, "the first thousand is acknowledged")
        kafka.suspend()
        for number in range(1000, 2000):
            spool.append(pack(Kind.CLICK, event_id(number), TRACE, body))
        assert spool.acknowledged == 1000
        kafka.resume()
        shipper.renew()
        until(lambda: spool.acknowledged == 2000, "the rest is acknowledged")
        lines = told(kafka, lambda lines: sum(line.sent for line in lines) >= 2000)
    finally:
        shipper.stop(5)
        spool.close()
    assert len(list(tmp_path.glob("*.seg"))) == 1, "acknowledged segments are gone"
    found = landed(kafka, Kind.CLICK, frozenset(event_id(number).hex() for number in range(2000)))
    assert len(found) == 2000
    headers = found[event_id(1500).hex()]
    assert int(headers.pop("minute")) == minute_us // 60_000_000
    assert {(line.node, line.topic, line.minute_us) for line in lines} == {("edge-1", TOPICS[Kind.CLICK], minute_us)}
    assert sum(line.sent for line in lines) == 2000, "the ledger counts each event once"
    assert headers == {
        "event-id": event_id(1500).hex().encode(),
        "kind": b"isthmus.events.v1.Click",
        "origin": b"public",
        "node": b"edge-1",
        "traceparent": TRACE.encode(),
    }


def test_what_a_dead_process_left_is_shipped_by_the_next(kafka, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    before = Spool(tmp_path)
    numbers = range(10_000, 10_100)
    for number in numbers:
        before.append(pack(Kind.CONTENT_VIEW, event_id(number), "", b"body"))
    before.close()
    spool = Spool(tmp_path)
    shipper = Shipper(
        spool, KafkaAccess(kafka.bootstrap, kafka.identity("public", "edge"), "edge-1"), TOPICS, LEDGER, "edge-1"
    )
    shipper.start()
    shipper.stop(30)
    assert shipper.counters.shipped == 100, "a drain ships what is left"
    spool.close()
    assert len(landed(kafka, Kind.CONTENT_VIEW, frozenset(event_id(number).hex() for number in numbers))) == 100


def test_an_event_for_a_quorum_is_in_kafka_before_its_answer_and_on_the_disk_alone_while_kafka_is_away(  # type: ignore[no-untyped-def]
    kafka, tmp_path: Path
) -> None:
    spool = Spool(tmp_path)
    recorder = Recorder(spool, load())
    access = KafkaAccess(kafka.bootstrap, kafka.identity("public", "edge"), "edge-1")
    shipper = Shipper(spool, access, TOPICS, LEDGER, "edge-1")
    kind = Kind.CONTENT_RECEIPT

    async def answered(number: int) -> bool:
        """Whether Kafka had acknowledged the event when the answer could leave."""
        before = recorder.alone[kind]
        sequence = recorder.write(kind, event_id(number), "", b"")
        await recorder.synced(kind, sequence)
        assert sequence is not None
        assert spool.synced_sequence >= sequence
        return recorder.alone[kind] == before

    shipper.start()
    try:
        # A producer that only begins to connect is away for as long.
        until(lambda: asyncio.run(answered(20_000)), "the broker acknowledges before the answer")
        assert asyncio.run(answered(20_001))
        assert landed(kafka, kind, frozenset({event_id(20_001).hex()})), "Kafka has what was answered"
        kafka.suspend()
        assert not asyncio.run(answered(20_002)), "a broker that is away keeps no answer from leaving"
        kafka.resume()
        shipper.renew()
        until(lambda: spool.acknowledged == spool.written, "what the disk alone had is shipped")
        until(lambda: asyncio.run(answered(20_003)), "the broker that is back is waited for again")
    finally:
        shipper.stop(5)
        spool.close()


def test_a_record_that_kafka_will_never_take_is_set_aside_alone(kafka, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    kind, small, huge = Kind.CONTENT_VIEW, events_pb2.ContentView(slug="a").SerializeToString(), os.urandom(8_000)
    admin = broker.admin(kafka.identity("public", "kafka"), kafka.bootstrap)

    def bound(operation: AlterConfigOpType) -> None:
        entry = ConfigEntry("max.message.bytes", "2000", incremental_operation=operation)
        resource = ConfigResource(ResourceType.TOPIC, TOPICS[kind], incremental_configs=[entry])
        for answer in admin.incremental_alter_configs([resource]).values():
            answer.result(30)

    spool = Spool(tmp_path)
    access = KafkaAccess(kafka.bootstrap, kafka.identity("public", "edge"), "edge-1")
    shipper = Shipper(spool, access, TOPICS, LEDGER, "edge-1")
    numbers = range(30_000, 30_101)
    for number in numbers:
        spool.append(pack(kind, event_id(number), "", huge if number == 30_050 else small))
    bound(AlterConfigOpType.SET)
    try:
        shipper.start()
        until(lambda: spool.acknowledged == spool.written, "everything is shipped or set aside")
    finally:
        bound(AlterConfigOpType.DELETE)
        shipper.stop(5)
        spool.close()
    assert shipper.counters.hopeless == 1
    wanted = frozenset(event_id(number).hex() for number in numbers if number != 30_050)
    assert landed(kafka, kind, wanted).keys() == wanted


def campaign(name: str, weight: int = 1) -> bytes:
    creative = catalog_pb2.AdCreative(creative_id="one", title="One", landing_url="https://shop.example/1")
    return catalog_pb2.Campaign(
        campaign_id=name, slots=["top"], weight=weight, creatives=[creative]
    ).SerializeToString()


class Node:
    """The snapshot's side of a node."""

    def __init__(self, kafka, directory: Path, bootstrap: str | None = None) -> None:  # type: ignore[no-untyped-def]
        self.chooser, clock = Chooser(), SystemClock()
        self.spool = Spool(directory / "spool")
        reader = Reader(Recorder(self.spool, load()), clock, "edge-1")
        self.publisher = Publisher(Catalogue(Share()), Shelf(), self.chooser, reader, clock)
        access = KafkaAccess(bootstrap or kafka.bootstrap, kafka.identity("public", "edge"), "edge-1")
        self.path = directory / "snapshot.bin"
        self.consumer = SnapshotConsumer(access, SOURCES, self.publisher, self.path)
        self.consumer.start()

    def weight(self, name: str) -> int | None:
        for plan in self.chooser.index.plans.values():
            for member in (member for _, groups in plan for group in groups.values() for member in group.members):
                if member.campaign.campaign_id == name:
                    return member.campaign.weight
        return None

    def close(self) -> None:
        self.consumer.stop(5)
        self.spool.close()


def test_a_node_follows_what_is_published_and_starts_from_its_disk_without_kafka(kafka, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (topic,) = (topic for topic, source in SOURCES.items() if source is Source.CAMPAIGN)
    publisher = Producer(kafka.settings("private", "bridge-outbound"))

    def publish(name: str, value: bytes) -> None:
        publisher.produce(topic, value, name)
        assert publisher.flush(20) == 0

    publish("shoes", campaign("shoes"))
    publish("hats", campaign("hats"))
    publish("hats", b"")
    node = Node(kafka, tmp_path)
    assert node.consumer.ready.wait(40)
    until(lambda: node.consumer.caught_up, "the topics are read to their ends")
    assert (node.weight("shoes"), node.weight("hats")) == (1, None)
    publish("shoes", campaign("shoes", 7))
    until(lambda: node.weight("shoes") == 7, "a change arrives")
    node.consumer.renew()
    publish("coats", campaign("coats", 2))
    until(lambda: node.weight("coats") == 2, "a change arrives through a renewed consumer")
    assert node.consumer.staleness_s() < 30
    until(lambda: (Source.CAMPAIGN, "coats") in (state.load(node.path) or {}), "the snapshot is saved")
    node.close()
    alone = Node(kafka, tmp_path, bootstrap="127.0.0.1:1")
    assert alone.consumer.ready.wait(20)
    assert (alone.weight("shoes"), alone.weight("coats")) == (7, 2)
    assert not alone.consumer.caught_up
    alone.close()
