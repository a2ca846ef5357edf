"""Data planes that start while their control plane is away work with what was good last, and follow it when it is back.

Real Envoy and real grpcio: both ask a second server of configuration, and each in its own way goes back to the first.
"""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from deploy.local import gateway_fallback
from mesh.fallback import NAME
from mesh.lastgood import FILE
from tests.integration.control.world import World, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
CALLER = "tests.integration.control.caller"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """A mesh whose data planes have something to keep: orders-2 is no part of it yet."""
    world = World(tmp_path_factory.mktemp("fallback"))
    world.add("control-private", "control-private", "private", "ads")
    world.add("orders-1", "orders", "private", "grpc")
    world.add("orders-2", "orders", "private", "grpc")
    world.add("payments-1", "payments", "private", "metrics")
    world.add("core-gateway", "core-gateway", "private", "https", "metrics")
    world.publish("orders-2")
    # As the launcher does for every gateway.
    kept = gateway_fallback.fallback(world.home, world.processes["core-gateway"])
    await kept.start()
    try:
        # In no order in particular: a gateway that is there first finds neither a control plane nor what was good last.
        await world.start("core-gateway")
        for node in ("orders-1", "orders-2"):
            await world.start(node)
        await world.start("payments-1", CALLER)
        await world.control("private")
        await world.serving("core-gateway", "https")
        await answered_by(world, "orders-1")
        for name in ("core-gateway", "payments-1"):
            await eventually(lambda name=name: exists(world, name), f"{name} keeps what is good; {world.tail(name)}")  # type: ignore[misc]
        yield world
    finally:
        await kept.stop(0)
        await world.stop()


async def exists(world: World, name: str) -> bool:
    return (world.home.run(name) / FILE).exists()


async def answered_by(world: World, node: str) -> None:
    """Wait for an answer of this node to a call made from now on."""
    notes = world.home.run("payments-1") / "answers"
    before = notes.stat().st_size if notes.exists() else 0

    async def answered() -> bool:
        return notes.exists() and node in notes.read_text()[before:]

    await eventually(answered, f"{node} answers; {world.tail('payments-1')}", within_s=30)


async def told_by(world: World) -> str:
    return await gateway_fallback.told_by(world.home, world.processes["core-gateway"])


async def test_a_grpc_client_starts_without_its_control_plane_and_follows_it_again(world: World) -> None:
    await world.kill("control-private")
    await world.kill("payments-1")
    await world.start("payments-1", CALLER)
    await answered_by(world, "orders-1")
    assert "configured by what was good last" in world.tail("payments-1")
    world.publish()
    await world.control("private")
    await answered_by(world, "orders-2")


async def test_a_gateway_starts_without_its_control_plane_and_follows_it_again(world: World) -> None:
    await world.kill("control-private")
    await world.kill("core-gateway")
    await world.start("core-gateway")
    await world.serving("core-gateway", "https")
    assert await told_by(world) == NAME
    await world.control("private")

    async def follows() -> bool:
        return await told_by(world) == "control-private"

    await eventually(follows, f"the gateway follows its control plane; {world.tail('core-gateway')}", within_s=30)


async def test_what_others_may_have_written_is_not_used(world: World) -> None:
    notes, path = world.home.run("payments-1") / "answers", world.home.run("payments-1") / FILE
    await world.kill("control-private")
    await world.kill("payments-1")
    before = notes.read_text()
    path.chmod(0o644)
    await world.start("payments-1", CALLER)

    async def refused() -> bool:
        return "LAST_GOOD_UNTRUSTED" in world.tail("payments-1")

    await eventually(refused, f"it is refused; {world.tail('payments-1')}")
    assert notes.read_text() == before
    await world.control("private")
    await answered_by(world, "orders-1")
