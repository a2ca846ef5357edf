"""A personal value in a topic is found, though the broker keeps it compressed, and so is a topic that was not read."""

import time

import pytest
from confluent_kafka import Producer

from chaos.checkers.personal import TopicsUnread, in_topics
from deploy.local.topics import crossing
from mesh.contract.model import Direction
from tests.integration.conftest import Kafka

DEADLINE_S = 30.0
TOPIC = next(event.topic for event in crossing() if event.direction is Direction.INWARD)
NAME = b"Customer of a test that lets a name leak"


@pytest.mark.parametrize("where", ["key", "value", "headers"])
def test_a_value_in_a_record_is_found_from_its_moment_on(kafka: Kafka, where: str) -> None:
    settings, name = kafka.settings("public", "kafka"), NAME + where.encode()
    before_ms = time.time_ns() // 1_000_000
    assert in_topics(settings, [TOPIC], before_ms, [b"nobody", name]) == []
    producer = Producer({**settings, "compression.type": "lz4"})
    record: dict[str, object] = {"key": b"key", "value": b"value " * 200, "headers": {"kind": b"test"}}
    record[where] = {"name": name} if where == "headers" else b"about " * 200 + name
    producer.produce(TOPIC, **record)  # type: ignore[arg-type]
    assert producer.flush(DEADLINE_S) == 0
    assert in_topics(settings, [TOPIC], before_ms, [b"nobody", name]) == [f"{TOPIC}: value 1"]
    after_ms = time.time_ns() // 1_000_000 + 1000
    assert in_topics(settings, [TOPIC], after_ms, [b"nobody", name]) == []


def test_a_topic_that_cannot_be_read_is_not_called_clean(kafka: Kafka) -> None:
    with pytest.raises(TopicsUnread, match="no-such-topic"):
        in_topics(kafka.settings("public", "kafka"), ["no-such-topic"], 0, [NAME])
