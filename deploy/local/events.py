"""Topics as they are against the contract, and how far the warehouse is behind them."""

import asyncio
from pathlib import Path
from typing import Final

from confluent_kafka import TopicPartition
from confluent_kafka.admin import OffsetSpec
from sqlalchemy import text

from deploy.local.kafka import broker
from deploy.local.topics import crossing, new_topic, strayed
from mesh import contract
from mesh.contract.model import Direction
from mesh.database.engine import async_engine, execute

# More than a few seconds of a busy day.
LAG_MAX: Final = 10_000
_DEADLINE_S: Final = 10.0


async def database_clock(url: str) -> float:
    """The database's time, in seconds since the epoch."""
    engine = async_engine(url, "check", pool_size=1)
    try:
        rows = await execute(engine, text("SELECT extract(epoch FROM clock_timestamp())"))
        return float(rows[0][0])
    finally:
        await engine.dispose()


def topic_faults(identity: Path, bootstrap: str) -> list[str]:
    """In which ways topics differ from the contract: missing, too few partitions, other settings."""
    client = broker.admin(identity, bootstrap)
    there = client.list_topics(timeout=_DEADLINE_S).topics
    found = []
    wanted = {event.topic: new_topic(event) for event in crossing()}
    for name, topic in sorted(wanted.items()):
        if name not in there:
            found.append(f"{name} is missing")
        elif len(there[name].partitions) < topic.num_partitions:
            found.append(f"{name} has {len(there[name].partitions)} partitions of {topic.num_partitions}")
    others = strayed(client, [topic for name, topic in wanted.items() if name in there])
    return found + [f"{each.topic} has {each.name} {each.value}, not {each.wanted}" for each in others]


async def lag(identity: Path, bootstrap: str, url: str) -> int:
    """Events of inward topics that stand in Kafka and not yet in the warehouse."""
    engine = async_engine(url, "check", pool_size=1)
    try:
        rows = await execute(engine, text("SELECT topic, partition, next_offset FROM bridge.checkpoint"))
    finally:
        await engine.dispose()
    landed = {(topic, partition): int(offset) for topic, partition, offset in rows}
    stands = await asyncio.to_thread(_stands, identity, bootstrap)
    return sum(max(0, end - max(first, landed.get(place, 0))) for place, (first, end) in stands.items())


def _stands(identity: Path, bootstrap: str) -> dict[tuple[str, int], tuple[int, int]]:
    """By topic and partition, the first offset that is kept and the next that is given."""
    client = broker.admin(identity, bootstrap)
    inward = {event.topic for event in contract.load().events.values() if event.direction is Direction.INWARD}
    there = client.list_topics(timeout=_DEADLINE_S).topics
    places = [TopicPartition(name, each) for name in inward & there.keys() for each in there[name].partitions]

    def offsets(spec: OffsetSpec) -> dict[tuple[str, int], int]:
        answers = client.list_offsets(dict.fromkeys(places, spec), request_timeout=_DEADLINE_S)
        return {(place.topic, place.partition): answer.result(_DEADLINE_S).offset for place, answer in answers.items()}

    first = offsets(OffsetSpec.earliest())  # type: ignore[no-untyped-call]
    return {place: (first[place], end) for place, end in offsets(OffsetSpec.latest()).items()}  # type: ignore[no-untyped-call]
