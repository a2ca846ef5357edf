"""`xds:///` clients: a real grpcio channel, fed by a real control plane, follows what happens to the nodes."""

import asyncio
import contextlib
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from isthmus.orders.v1 import orders_pb2, orders_pb2_grpc

from chaos.drill.target import OVERRIDES, Target, new_key
from deploy.local.settings import LauncherSettings
from mesh.channel import Channels
from mesh.contract import load
from mesh.errors import DeadlineExceeded, MeshError, ResourceExhausted, Unavailable
from mesh.tls import Identity
from tests.integration.control.bootstrap import bootstrapped
from tests.integration.control.test_rejection import isthmus
from tests.integration.control.world import World, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
NODES = ("orders-1", "orders-2")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    world = World(tmp_path_factory.mktemp("grpc"))
    world.add("control-private", "control-private", "private", "ads")
    for node in NODES:
        world.add(node, "orders", "private", "grpc")
    for node in ("payments-1", "payments-2"):
        world.add(node, "payments", "private", "grpc")
    world.publish()
    try:
        await world.control("private")
        for node in NODES:
            await world.start(node)
        for node in (*NODES, "control-private"):
            await world.serving(node, "ads" if node.startswith("control") else "grpc")
        yield world
    finally:
        await world.stop()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def orders(world: World) -> AsyncIterator[orders_pb2_grpc.OrdersStub]:
    """A stub as payments has it."""
    async with bootstrapped(world.environment("payments-1")["GRPC_XDS_BOOTSTRAP"]):
        channels = Channels(Identity(world.home.identity("payments-1")), load())
        try:
            yield orders_pb2_grpc.OrdersStub(channels.open("orders"))
        finally:
            await channels.close()


async def node_of(orders: orders_pb2_grpc.OrdersStub) -> str:
    """The node that answers one call."""
    call: Any = orders.GetOrder(orders_pb2.GetOrderRequest(order_id="a"))
    return str((await call).order.member_id)


async def spread(orders: orders_pb2_grpc.OrdersStub, calls: int = 20) -> Counter[str]:
    return Counter([await node_of(orders) for _ in range(calls)])


async def exhausted(orders: orders_pb2_grpc.OrdersStub) -> bool:
    """Whether a call fails as the faults of these tests do."""
    try:
        await node_of(orders)
    except ResourceExhausted:
        return True
    return False


async def both_answer(world: World, orders: orders_pb2_grpc.OrdersStub) -> None:
    async def both() -> bool:
        with contextlib.suppress(MeshError):
            return set(await spread(orders)) == set(NODES)
        return False

    await eventually(both, f"both nodes answer; {world.tail('control-private')}")


async def test_calls_go_to_every_node(world: World, orders: orders_pb2_grpc.OrdersStub) -> None:
    await both_answer(world, orders)


async def test_killing_a_node_fails_no_idempotent_call(world: World, orders: orders_pb2_grpc.OrdersStub) -> None:
    await both_answer(world, orders)
    answered: list[str] = []
    running = True

    async def drive() -> None:
        while running:
            answered.append(await node_of(orders))

    drivers = [asyncio.create_task(drive()) for _ in range(4)]

    async def driven() -> bool:
        return set(answered[-20:]) == {"orders-1", "orders-2"}

    await eventually(driven, "both answer the drivers")
    await world.kill("orders-1")
    killed_after = len(answered)

    async def moved() -> bool:
        return len(answered) - killed_after > 200 and set(answered[-20:]) == {"orders-2"}

    await eventually(moved, "the other one answers them all")
    running = False
    # Raises what any of their calls failed with.
    await asyncio.gather(*drivers)
    await world.start("orders-1")
    await world.serving("orders-1", "grpc")


async def test_an_endpoint_that_leaves_the_topology_gets_no_more_calls(
    world: World, orders: orders_pb2_grpc.OrdersStub
) -> None:
    await both_answer(world, orders)
    world.publish("orders-1")

    async def moved() -> bool:
        return set(await spread(orders)) == {"orders-2"}

    await eventually(moved, "traffic has moved")
    world.publish()
    await both_answer(world, orders)


async def test_a_frozen_node_fails_no_idempotent_call_and_traffic_leaves_it(
    world: World, orders: orders_pb2_grpc.OrdersStub
) -> None:
    await both_answer(world, orders)
    world.signal("orders-2", signal.SIGSTOP)
    try:
        # One of the two goes to the frozen node, which takes it as a healthy one would.
        assert set(await asyncio.gather(node_of(orders), node_of(orders))) == {"orders-1"}

        async def moved() -> bool:
            started = time.monotonic()
            with contextlib.suppress(MeshError):
                found = await spread(orders, 10)
                return set(found) == {"orders-1"} and time.monotonic() - started < 2
            return False

        await eventually(moved, "calls are answered by the other node alone")
    finally:
        world.signal("orders-2", signal.SIGCONT)
    await both_answer(world, orders)


async def test_a_fault_is_pushed_and_ends_by_itself(world: World, orders: orders_pb2_grpc.OrdersStub) -> None:
    await both_answer(world, orders)
    laid = time.time()
    await world.fault("private", "/isthmus.orders.v1.Orders/GetOrder", life_s=6)
    await eventually(lambda: exhausted(orders), f"the fault is there; {world.tail('control-private')}")

    async def ended() -> bool:
        return not await exhausted(orders)

    await eventually(ended, "the fault has ended")
    assert time.time() >= laid + 6


async def test_a_drill_lays_a_fault_and_takes_it_back(world: World, orders: orders_pb2_grpc.OrdersStub) -> None:
    await both_answer(world, orders)
    target = Target(LauncherSettings(home=world.home.root))
    key = new_key("orders/GetOrder")
    fault = {"method": "orders/GetOrder", "percent": 100, "delay_ms": 0, "abort": "RESOURCE_EXHAUSTED"}
    # A drill asks from a thread of its own, beside the loop of its traffic.
    await asyncio.to_thread(target.ask, OVERRIDES, **fault, ttl_s=60.0, record="0" * 32, lease=key)

    await eventually(lambda: exhausted(orders), "the fault is there")
    await asyncio.to_thread(target.heal, OVERRIDES, key)
    await both_answer(world, orders)


async def test_a_control_plane_that_dies_is_not_missed(world: World, orders: orders_pb2_grpc.OrdersStub) -> None:
    await both_answer(world, orders)
    await world.kill("control-private")
    assert set(await spread(orders)) == set(NODES)
    await world.control("private")
    await world.serving("control-private", "ads")
    await both_answer(world, orders)


async def test_a_call_to_whom_the_control_plane_does_not_know_ends_within_its_deadline(
    world: World, orders: orders_pb2_grpc.OrdersStub
) -> None:
    await both_answer(world, orders)
    channels = Channels(Identity(world.home.identity("payments-1")), load())
    nobody = orders_pb2_grpc.OrdersStub(channels.open("nobody"))
    try:
        # gRPC by itself waits 15 s for a word about the name, with every call that is made meanwhile.
        async with asyncio.timeout(12):
            ended = await asyncio.gather(*(node_of(nobody) for _ in range(3)), return_exceptions=True)
        assert {type(each) for each in ended} <= {DeadlineExceeded, Unavailable}
        await both_answer(world, orders)
    finally:
        await channels.close()


async def test_what_a_client_works_with_is_compared_with_what_it_was_told(world: World) -> None:
    """payments-2 is a process of its own, with a server that tells what its channels have applied."""
    await world.start("payments-2", "tests.integration.control.caller")

    async def told(endpoints: str, status: int) -> dict[str, Any]:
        """The rows of its types, once its endpoints are in this state and the command ends with this status."""
        found: dict[str, Any] = {}

        async def holds() -> bool:
            ended, rows = await isthmus(world, "config", "status")
            found.clear()
            found.update({row["type"]: row for row in rows if row["node"] == "payments-2"})
            return "EDS" in found and (found["EDS"]["state"], ended) == (endpoints, status)

        await eventually(holds, f"its endpoints are {endpoints}; {world.tail('payments-2')}")
        return found

    first = await told("applied", 0)
    assert first.keys() == {"CDS", "EDS", "LDS", "RDS"}
    for row in first.values():
        assert row["state"] == "applied"
        assert (row["applied"], row["acknowledged"], row["group"]) == ([row["sent"]], row["sent"], "grpc")
    world.signal("payments-2", signal.SIGSTOP)
    try:
        world.publish("orders-1")
        behind = (await told("behind", 1))["EDS"]
        assert behind["sent"] != behind["acknowledged"] == first["EDS"]["sent"]
        # It does not say what it works with.
        assert behind["applied"] == []
    finally:
        world.signal("payments-2", signal.SIGCONT)
    assert (await told("applied", 0))["EDS"]["applied"] != first["EDS"]["applied"]
    world.publish()
    await world.kill("payments-2")


async def test_a_node_with_the_name_of_another_workload_is_refused(
    world: World, orders: orders_pb2_grpc.OrdersStub
) -> None:
    await both_answer(world, orders)
    for node in NODES:
        world.identities.issue("private", "members", node)
        await world.kill(node)
    environment = world.environment
    # A process that holds the certificate of members at the address of orders.
    world.environment = lambda name: {**environment(name), "ISTHMUS_WORKLOAD": "members"}  # type: ignore[method-assign]
    for node in NODES:
        await world.start(node)
    for node in NODES:
        await world.serving(node, "grpc")
    with pytest.raises(MeshError):
        await node_of(orders)
