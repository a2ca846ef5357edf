"""Calls stay in the caller's sub-zone, leave it where one would be alone there, and come back: real Envoy and gRPC."""

import asyncio
import signal
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from isthmus.orders.v1 import orders_pb2, orders_pb2_grpc

from mesh.channel import Channels
from mesh.contract import load
from mesh.errors import MeshError
from mesh.tls import Identity
from tests.integration.control.bootstrap import bootstrapped
from tests.integration.control.world import World, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
Ask = Callable[[], Awaitable[str]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    world = World(tmp_path_factory.mktemp("near"))
    for zone in ("public", "private"):
        world.add(f"control-{zone}", f"control-{zone}", zone, "ads")
    for number, place in ((1, "a"), (2, "a"), (3, "b")):
        world.add(f"edge-{number}", "edge", "public", "http", "grpc", sub_zone=place)
        world.add(f"orders-{number}", "orders", "private", "grpc", sub_zone=place)
    world.add("edge-gateway", "edge-gateway", "public", "https", "metrics", sub_zone="a")
    world.add("payments-1", "payments", "private", "grpc", sub_zone="a")
    world.publish()
    try:
        for zone in ("public", "private"):
            await world.control(zone)
        for name in (f"{workload}-{number}" for workload in ("edge", "orders") for number in (1, 2, 3)):
            await world.start(name)
        for name in list(world.running):
            await world.serving(name, "ads" if name.startswith("control") else "grpc")
        await world.start("edge-gateway")
        await world.serving("edge-gateway", "https")
        yield world
    finally:
        await world.stop()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def by_envoy(world: World) -> AsyncIterator[Ask]:
    """Asks an edge node as the public does; says which one has answered."""
    context = ssl.create_default_context(cafile=str(world.home.root / "ca" / "public" / "root.pem"))
    port = world.address("edge-gateway", "https").split(":")[1]
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(f"https://localhost:{port}", connector=connector) as session:

        async def ask() -> str:
            async with session.post("/v1/ads:decide", json={"slot": "position-1"}) as answer:
                found: dict[str, Any] = await answer.json(content_type=None)
                return str(found["node"] if answer.status == 200 else answer.status)

        yield ask


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def by_grpc(world: World) -> AsyncIterator[Ask]:
    """Asks orders as payments-1 does; says which node has answered."""
    async with bootstrapped(world.environment("payments-1")["GRPC_XDS_BOOTSTRAP"]):
        channels = Channels(Identity(world.home.identity("payments-1")), load())
        orders = orders_pb2_grpc.OrdersStub(channels.open("orders"))

        async def ask() -> str:
            try:
                call: Any = orders.GetOrder(orders_pb2.GetOrderRequest(order_id="a"))
                return str((await call).order.member_id)
            except MeshError as error:
                return error.reason

        try:
            yield ask
        finally:
            await channels.close()


async def answers(ask: Ask, calls: int = 20) -> set[str]:
    return set(await asyncio.gather(*(ask() for _ in range(calls))))


@pytest.mark.parametrize("client", ["envoy", "grpc"])
async def test_calls_stay_near_go_far_and_come_back(world: World, by_envoy: Ask, by_grpc: Ask, client: str) -> None:
    ask = by_envoy if client == "envoy" else by_grpc
    workload = "edge" if client == "envoy" else "orders"
    first, second, far = (f"{workload}-{number}" for number in (1, 2, 3))
    near = {first, second}

    await eventually(lambda: _only(ask, near), f"{near} answer alone; {world.tail('edge-gateway')}")

    # One dies: the other is not left alone with all the calls.
    await world.kill(first)
    await eventually(lambda: _only(ask, {second, far}), f"{second} and {far} answer")

    # It is back, and the two are preferred again.
    await world.start(first)
    await eventually(lambda: _only(ask, near), f"{near} answer alone again")

    # Both freeze: found out by the probes, and left alone.
    for each in near:
        world.signal(each, signal.SIGSTOP)
    try:
        await eventually(lambda: _only(ask, {far}), "the frozen ones are left alone")
    finally:
        for each in near:
            world.signal(each, signal.SIGCONT)
    await eventually(lambda: _only(ask, near), "the thawed ones are preferred again")


@pytest.mark.parametrize("client", ["envoy", "grpc"])
async def test_a_canary_has_its_share_wherever_the_caller_stands_and_gives_it_back_when_it_dies(
    world: World, by_envoy: Ask, by_grpc: Ask, client: str
) -> None:
    ask = by_envoy if client == "envoy" else by_grpc
    workload, zone = ("edge", "public") if client == "envoy" else ("orders", "private")
    nodes = {f"{workload}-{number}" for number in (1, 2, 3)}
    canary = f"{workload}-3"

    async def shared() -> bool:
        found = Counter([await ask() for _ in range(200)])
        # None without a split, a third if all were alike; by chance alone, a tenth is hardly ever more than 40.
        return found.keys() == nodes and 2 <= found[canary] <= 40 < min(found[each] for each in nodes - {canary})

    await world.split(zone, workload, canary, 10)
    await eventually(shared, f"a tenth of the calls; {world.tail(f'control-{zone}')}")
    await world.kill(canary)
    try:
        # Some were on their way to it: mesh.channel and the gateway send them again.
        assert await answers(ask) == nodes - {canary}
    finally:
        await world.clear(zone)
        await world.start(canary)
        await world.serving(canary, "grpc")


async def test_a_gateway_goes_far_though_no_probe_has_found_out(world: World, by_envoy: Ask) -> None:
    # It ejects whoever does not answer, and repeats the calls on the next priority.
    await eventually(lambda: _only(by_envoy, {"edge-1", "edge-2"}), "those of its sub-zone answer alone")
    await world.kill("control-public")
    await world.kill("edge-2")
    await eventually(lambda: _only(by_envoy, {"edge-1", "edge-3"}), "one is left there, and does not bear all alone")
    world.signal("edge-1", signal.SIGSTOP)
    try:
        # A call that met the frozen one may have too little of its own time left, where the machine is busy.
        await eventually(lambda: _only(by_envoy, {"edge-3"}), "the frozen one is left alone, and the far one answers")
    finally:
        world.signal("edge-1", signal.SIGCONT)
        await world.start("edge-2")
        await world.control("public")


async def _only(ask: Ask, nodes: set[str]) -> bool:
    return await answers(ask) == nodes
