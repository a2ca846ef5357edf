"""The scenarios that the public xDS test descriptions name, with the mesh's own ADS, a real Envoy and a real grpcio:
subscribe, unsubscribe, warm, NACK, reconnect, removal.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from mesh.control.snapshot import CLUSTER, ENDPOINTS, LISTENER, ROUTES
from tests.integration.control.scenarios import ENVOY, GROUP, GRPC, Client, ControlPlane, stage
from tests.integration.control.world import eventually

MOVES = 12


@pytest_asyncio.fixture(params=[ENVOY, GRPC])
async def on_stage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[ControlPlane, Client]]:
    async with stage(request.param, tmp_path) as found:
        yield found


Stage = tuple[ControlPlane, Client]


async def test_subscribe_each_is_told_what_it_asks_for(on_stage: Stage) -> None:
    control, client = on_stage
    client.offer({"a": "one", "b": "two"})
    await client.follow("a")
    await client.reaches("a", "one")
    if client.kind == GRPC:
        assert control.asked(LISTENER) == {"a"}
        assert control.asked(CLUSTER) == {"one"}
    else:
        # Envoy asks for all listeners and clusters, and by name for what those refer to.
        assert control.asked(LISTENER) == control.asked(CLUSTER) == set()
        assert control.asked(ROUTES) == {"a", "b"}
    await client.follow("b")
    await client.reaches("b", "two")


async def test_unsubscribe_what_is_needed_no_more_is_asked_for_no_more(on_stage: Stage) -> None:
    control, client = on_stage
    client.offer({"a": "one", "b": "two"})
    for name, backend in (("a", "one"), ("b", "two")):
        await client.follow(name)
        await client.reaches(name, backend)
    assert control.asked(ENDPOINTS) == {"one", "two"}
    if client.kind == GRPC:
        await client.leave("b")
    else:
        client.offer({"a": "one"})

    async def gone() -> bool:
        return control.asked(ENDPOINTS) == {"one"}

    await eventually(gone, "the endpoints of two are asked for no more")
    assert await client.ask("a") == "one"


async def test_warm_no_call_fails_while_traffic_moves_to_clusters_that_are_new(on_stage: Stage) -> None:
    _, client = on_stage
    client.offer({"a": "one"})
    await client.follow("a")
    await client.reaches("a", "one")
    answers: list[str] = []
    moving = True

    async def call() -> None:
        while moving:
            answers.append(await client.ask("a"))

    callers = [asyncio.create_task(call()) for _ in range(4)]
    for number in range(MOVES):
        there = ("two", "one")[number % 2]
        # The cluster that was left goes, and comes back as a new one.
        client.offer({"a": there})
        seen = len(answers)

        async def moved(there: str = there, seen: int = seen) -> bool:
            return there in answers[seen:]

        await eventually(moved, f"calls are answered by {there}")
    moving = False
    await asyncio.gather(*callers)
    assert set(answers) == {"one", "two"}


async def test_nack_what_is_refused_is_taken_back(on_stage: Stage) -> None:
    control, client = on_stage
    good = client.offer({"a": "one"})
    await client.follow("a")
    await client.reaches("a", "one")

    async def acknowledged() -> bool:
        kept = control.cache.good(GROUP)
        return kept is not None and kept.configuration == good.configuration

    await eventually(acknowledged, "the first is good")
    bad = client.offer({"a": "two"}, broken="two")

    async def refused() -> bool:
        return bool(control.cache.rejections)

    await eventually(refused, "it is refused")
    rejection = control.cache.rejections[0]
    assert (rejection.kind, "two" in rejection.reason) == (CLUSTER, True)
    current: Any = control.cache.get(GROUP)
    assert current.configuration == good.configuration != bad.configuration
    if client.kind == GRPC:
        # It asks for a cluster when a route has named it, so it finds out late.
        await client.reaches("a", "one")
    assert {await client.ask("a") for _ in range(10)} == {"one"}
    client.offer({"a": "two"})
    await client.reaches("a", "two")


async def test_nack_what_was_valid_in_a_refused_answer_and_is_in_use_is_taken_back_too(on_stage: Stage) -> None:
    control, client = on_stage
    client.offer({"a": "one"})
    await client.follow("a")
    await client.reaches("a", "one")
    # One answer holds both clusters. Its version was refused, and says nothing of what became of them.
    client.offer({"a": "two+three"}, broken="two")

    async def refused() -> bool:
        return bool(control.cache.rejections)

    await eventually(refused, "it is refused")
    assert "two" in control.cache.rejections[0].reason

    async def applied_in_part() -> bool:
        return "three" in control.in_use

    await eventually(applied_in_part, "the endpoints of the valid one are asked for")

    async def taken_back() -> bool:
        return control.asked(ENDPOINTS) == {"one"}

    await eventually(taken_back, "nobody asks for them any more")
    await client.reaches("a", "one")
    assert {await client.ask("a") for _ in range(10)} == {"one"}


async def test_reconnect_what_was_missed_is_told(on_stage: Stage) -> None:
    control, client = on_stage
    client.offer({"a": "one"})
    await client.follow("a")
    await client.reaches("a", "one")
    await control.stop()
    client.offer({"a": "two"})
    assert {await client.ask("a") for _ in range(10)} == {"one"}
    await control.start()
    await client.reaches("a", "two")


async def test_removal_a_listener_that_is_left_out_goes_where_that_is_what_the_client_does(on_stage: Stage) -> None:
    control, client = on_stage
    client.offer({"a": "one", "b": "two"})
    await client.follow("a")
    await client.follow("b")
    await client.reaches("a", "one")
    await client.reaches("b", "two")
    without = client.offer({"a": "one"})

    async def told() -> bool:
        good = control.cache.good(GROUP)
        return good is not None and good.configuration == without.configuration

    await eventually(told, "they are told, and have acknowledged it")
    if client.kind == ENVOY:
        await client.reaches("b", "UNAVAILABLE")
    else:
        # Its bootstrap says so: what is missing from an answer is no reason to drop what works.
        assert {await client.ask("b") for _ in range(10)} == {"two"}
    client.offer({"a": "one", "b": "one"})
    await client.reaches("b", "one")
