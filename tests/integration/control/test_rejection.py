"""A configuration that a real Envoy refuses (NACK) takes itself back, is on record with its reason, and stays away."""

import asyncio
import json
import os
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from deploy.local import control_planes
from deploy.local.errors import NotRunning
from deploy.local.settings import REPOSITORY
from mesh.control.history import Change
from tests.integration.control.world import World, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
# An address of documentation (RFC 5737): it passes every check of a file, and no machine can listen on it.
NOWHERE = "192.0.2.1"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    world = World(tmp_path_factory.mktemp("rejection"))
    world.add("control-public", "control-public", "public", "ads")
    world.add("edge-1", "edge", "public", "http", "grpc")
    world.add("edge-gateway", "edge-gateway", "public", "https", "metrics")
    world.publish()
    try:
        await world.control("public")
        await world.start("edge-1")
        await world.serving("edge-1", "grpc")
        await world.start("edge-gateway")
        await world.serving("edge-gateway", "https")
        yield world
    finally:
        await world.stop()


async def changes(world: World) -> list[Change]:
    found = (await control_planes.reports(world.home)).changes
    return [change for change in found if change.group == "edge-gateway"]


async def answers(world: World, url: str) -> bool:
    context = ssl.create_default_context(cafile=str(world.home.root / "ca" / "public" / "root.pem"))
    connector = aiohttp.TCPConnector(ssl=context, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        try:
            async with session.post(f"{url}/v1/ads:decide", json={"slot": "position-1"}) as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False


async def isthmus(world: World, *arguments: str) -> tuple[int, Any]:
    """Exit status and JSON of a command."""
    process = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).with_name("isthmus")), *arguments, "--json"),
        env={**os.environ, "ISTHMUS_HOME": str(world.home.root)},
        cwd=REPOSITORY,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, json.loads(out)


async def test_a_refused_listener_takes_itself_back_and_everybody_can_see_why(world: World) -> None:
    url = f"https://localhost:{world.address('edge-gateway', 'https').split(':')[1]}"

    async def good() -> bool:
        found = await changes(world)
        return bool(found) and found[-1].fate == "good" and await answers(world, url)

    await eventually(good, f"the first configuration is acknowledged; {world.tail('control-public')}")
    status, rows = await isthmus(world, "config", "status")
    of_gateway = {row["type"]: row for row in rows if row["node"] == "edge-gateway"}
    assert status == 0
    assert of_gateway.keys() == {"CDS", "EDS", "LDS", "RDS"}
    assert {of_gateway[kind]["state"] for kind in ("CDS", "LDS", "RDS")} == {"applied"}, of_gateway
    first = (await changes(world))[-1].configuration

    gateway = world.processes["edge-gateway"]
    elsewhere = tuple(replace(each, address=NOWHERE) if each.name == "https" else each for each in gateway.listens)
    world.processes["edge-gateway"] = replace(gateway, listens=elsewhere)
    world.publish()

    async def rejected() -> bool:
        return (await changes(world))[-1].fate == "rejected"

    await eventually(rejected, f"the second is rejected; {world.tail('control-public')}")
    bad = (await changes(world))[-1]
    assert bad.node == "edge-gateway"
    assert NOWHERE in bad.reason
    assert await answers(world, url)

    async def back() -> bool:
        _, rows = await isthmus(world, "config", "status")
        return {row["state"] for row in rows if row["node"] == "edge-gateway" and row["type"] != "EDS"} == {"applied"}

    await eventually(back, "the gateway has been told the first one again")
    _, history = await isthmus(world, "config", "history")
    assert [(row["configuration"], row["fate"]) for row in history if row["group"] == "edge-gateway"] == [
        (first, "good"),
        (bad.configuration, "rejected"),
    ]
    status, differences = await isthmus(world, "config", "diff", "edge-gateway", first, bad.configuration)
    assert status == 1
    assert [(row["type"], row["change"]) for row in differences] == [("LDS", "changed")]
    for name, at in ((first, "127.0.0.1"), (bad.configuration, NOWHERE)):
        status, dumped = await isthmus(world, "config", "dump", "edge-gateway", name)
        (listener,) = (row["resource"] for row in dumped if row["type"] == "LDS")
        assert (status, listener["address"]["socket_address"]["address"]) == (0, at)


async def test_a_control_plane_that_starts_again_does_not_offer_it_again(world: World) -> None:
    before = await changes(world)
    await world.kill("control-public")
    with pytest.raises(NotRunning, match="control-public"):
        await control_planes.reports(world.home)
    await world.control("public")
    await world.serving("control-public", "ads")

    async def reports_again() -> bool:
        (now,) = (await control_planes.reports(world.home)).found
        return any(plane.node == "edge-gateway" and plane.connected and plane.types for plane in now.planes)

    await eventually(reports_again, "the gateway is connected again")
    url = f"https://localhost:{world.address('edge-gateway', 'https').split(':')[1]}"
    assert await answers(world, url)
    assert [row.configuration for row in await changes(world) if row.fate == "rejected"] == [
        row.configuration for row in before if row.fate == "rejected"
    ]


async def test_the_next_good_one_is_taken(world: World) -> None:
    gateway = world.processes["edge-gateway"]
    here = tuple(replace(each, address="127.0.0.1") if each.name == "https" else each for each in gateway.listens)
    world.processes["edge-gateway"] = replace(gateway, listens=here)
    world.publish()

    async def good() -> bool:
        return (await changes(world))[-1].fate == "good"

    await eventually(good, "what worked before is good again")


async def test_what_was_refused_for_a_passing_reason_is_offered_again_by_command(world: World) -> None:
    gateway = world.processes["edge-gateway"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        moved = tuple(replace(each, port=port) if each.name == "https" else each for each in gateway.listens)
        world.processes["edge-gateway"] = replace(gateway, listens=moved)
        world.publish()

        async def rejected() -> bool:
            return (await changes(world))[-1].fate == "rejected"

        await eventually(rejected, f"a port that is taken is refused; {world.tail('control-public')}")
        name = (await changes(world))[-1].configuration
        status, again = await isthmus(world, "config", "retry", "edge-gateway", name)
        assert (status, again["fate"]) == (1, "rejected")
        assert str(port) in again["reason"]
    status, again = await isthmus(world, "config", "retry", "edge-gateway", name)
    assert (status, again["fate"]) == (0, "good")
    assert await answers(world, f"https://localhost:{port}")
