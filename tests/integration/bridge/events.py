"""Events as an edge node would send them."""

import hashlib
import time
from collections.abc import Iterable

from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from google.protobuf.message import Message
from isthmus.events.v1 import events_pb2

from mesh import contract

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


def event_id(kind: str, number: int) -> str:
    return hashlib.sha256(f"{kind}|{number}".encode()).hexdigest()[:32]


def click(number: int) -> events_pb2.Click:
    return events_pb2.Click(
        event_id=event_id("click", number),
        source_time_us=1_700_000_000_000_001 + number,
        accepted_time_us=time.time_ns() // 1000,
        node="edge-1",
        slot=f"position-{number % 3 + 1}",
        campaign_id="summer",
        creative_id="summer-1",
        impression_id=event_id("impression", number),
    )


def impression(number: int) -> events_pb2.Impression:
    return events_pb2.Impression(
        event_id=event_id("impression", number),
        source_time_us=1_700_000_000_000_001 + number,
        accepted_time_us=time.time_ns() // 1000,
        node="edge-1",
        slot=f"position-{number % 3 + 1}",
        campaign_id="summer",
        creative_id="summer-1",
        features={"user_feature_0": 'a"\\\t\n\r', "user_feature_1": "b"},
    )


def topic_of(event: Message) -> str:
    return contract.load().events[event.DESCRIPTOR.full_name].topic


def headers(event: Message) -> dict[str, str | bytes | None]:
    return {
        "kind": event.DESCRIPTOR.full_name,
        "origin": "public",
        "node": "edge-1",
        "event-id": event.event_id,  # type: ignore[attr-defined]
        "minute": str(event.accepted_time_us // 60_000_000),  # type: ignore[attr-defined]
        "traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01",
    }


def send(producer: Producer, events: Iterable[events_pb2.Click | events_pb2.Impression]) -> int:
    """Send and wait for the broker; the key chooses the partition."""
    count = 0
    for event in events:
        count += 1
        payload = event.SerializeToString()
        while True:
            try:
                producer.produce(topic_of(event), payload, event.event_id, headers=headers(event))
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(30) == 0
    return count


def empty(admin: AdminClient) -> None:
    """Remove every record of the inward topics, so that a new database begins behind them."""
    places = [
        TopicPartition(event.topic, number)
        for event in contract.load().events.values()
        if not event.compacted
        for number in range(event.partitions)
    ]
    latest: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    ends = admin.list_offsets(dict.fromkeys(places, latest), request_timeout=10)
    removed = [TopicPartition(place.topic, place.partition, end.result(10).offset) for place, end in ends.items()]
    for future in admin.delete_records(removed, request_timeout=10).values():
        future.result(10)
