"""How far the warehouse is behind, as `isthmus check` counts it: what stands in Kafka and has not landed."""

import asyncio
from collections.abc import Callable

from deploy.local.events import lag
from tests.integration.bridge import events
from tests.integration.bridge.cluster import Cluster, Room, until


def test_what_waits_in_kafka_is_counted_until_it_has_landed(
    cluster: Cluster, database_url: str, start_room: Callable[..., Room]
) -> None:
    def waiting() -> int:
        return asyncio.run(lag(cluster.broker, cluster.bootstrap, database_url))

    # Nothing has landed in this database, and what other tests have written stands in Kafka no more.
    events.empty(cluster.admin())
    assert waiting() == 0
    events.send(cluster.producer(), map(events.click, range(30)))
    events.send(cluster.producer(), map(events.impression, range(5)))
    assert waiting() == 35
    start_room("bridge-inbound", bridge_poll_s=0.1)
    until(lambda: waiting() == 0, "all has landed")
