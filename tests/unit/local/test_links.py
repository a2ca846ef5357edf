"""A link passes bytes untouched, and slows, swallows or tears them while it is told to."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from deploy.local.leases import BadFault
from deploy.local.links import Link, Links, Way

DEADLINE_S = 10.0


@pytest.fixture
async def links() -> AsyncIterator[Links]:
    """One link before a server that echoes."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1000):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            # Also where the test has ended, and this with it.
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    links = Links({"core": [Way(listen="127.0.0.1:0", to=f"127.0.0.1:{port}")]})
    (proxy,) = await links.links["core"].open()
    listens = proxy.sockets[0].getsockname()[1]
    links.links["core"].ways[0] = Way(listen=f"127.0.0.1:{listens}", to=f"127.0.0.1:{port}")
    yield links
    await links.handle({"do": "heal"})
    proxy.close()
    server.close()


async def connected(links: Links) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = links.links["core"].ways[0].listen.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def exchange(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], data: bytes) -> bytes:
    reader, writer = connection
    writer.write(data)
    return await asyncio.wait_for(reader.readexactly(len(data)), DEADLINE_S)


def disturb(**fault: Any) -> dict[str, Any]:
    return {"do": "disturb", "link": "core", "lease": "one", "ttl_s": 60, **fault}


async def test_bytes_pass_untouched(links: Links) -> None:
    connection = await connected(links)
    data = bytes(range(256)) * 2000
    assert await exchange(connection, data) == data
    connection[1].close()


async def test_a_black_hole_swallows_until_it_is_healed_and_nothing_is_lost(links: Links) -> None:
    connection = await connected(links)
    assert await exchange(connection, b"before") == b"before"
    await links.handle(disturb(mode="black-hole"))
    connection[1].write(b"during")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(connection[0].readexactly(1), 0.2)
    assert await links.handle({"do": "heal", "lease": "one"}) == {"healed": 1}
    assert await asyncio.wait_for(connection[0].readexactly(6), DEADLINE_S) == b"during"
    connection[1].close()


async def test_a_reset_tears_what_stands_and_what_comes(links: Links) -> None:
    standing = await connected(links)
    assert await exchange(standing, b"before") == b"before"
    await links.handle(disturb(mode="reset"))
    for connection in (standing, await connected(links)):
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(connection[0].readexactly(1), DEADLINE_S)
        connection[1].close()
    await links.handle({"do": "heal"})
    again = await connected(links)
    assert await exchange(again, b"after") == b"after"
    again[1].close()


async def test_a_slow_link_delays(links: Links) -> None:
    connection = await connected(links)
    await links.handle(disturb(mode="slow", latency_ms=60, directions=["there"]))
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await exchange(connection, b"late") == b"late"
    assert loop.time() - began >= 0.06
    connection[1].close()


async def test_what_the_far_side_forgot_stays_silent_for_ever_and_new_connections_pass_once_healed(
    links: Links,
) -> None:
    standing = await connected(links)
    assert await exchange(standing, b"before") == b"before"
    await links.handle(disturb(mode="half-open"))
    during = await connected(links)
    await links.handle({"do": "heal"})
    after = await connected(links)
    assert await exchange(after, b"after") == b"after"
    for silent in (standing, during):
        silent[1].write(b"is anybody there")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(silent[0].read(1), 0.1)
        silent[1].close()
    after[1].close()


async def test_loss_tears_the_connections_that_it_hits(links: Links) -> None:
    connection = await connected(links)
    assert await exchange(connection, b"before") == b"before"
    await links.handle(disturb(mode="lossy", loss=1.0, directions=["back"]))
    connection[1].write(b"lost")
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await asyncio.wait_for(connection[0].readexactly(4), DEADLINE_S)
    connection[1].close()
    await links.handle({"do": "heal"})
    again = await connected(links)
    assert await exchange(again, b"after") == b"after"
    again[1].close()


async def test_bandwidth_holds_back_what_is_too_much(links: Links) -> None:
    connection = await connected(links)
    await links.handle(disturb(mode="slow", bytes_per_s=10_000, directions=["there"]))
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(2):
        assert await exchange(connection, bytes(1000)) == bytes(1000)
    # The second waits until the first has passed.
    assert loop.time() - began >= 0.1
    connection[1].close()


async def test_a_disturbed_link_heals_by_itself_when_the_time_is_over(links: Links) -> None:
    connection = await connected(links)
    await links.handle({**disturb(mode="black-hole"), "ttl_s": 0.1})
    assert await exchange(connection, b"late") == b"late"
    assert links.links["core"].fault is None
    connection[1].close()


async def test_a_link_of_unix_sockets_is_for_its_user_alone(tmp_path: Path) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(1000))
        writer.close()

    to, listen = tmp_path / "to", tmp_path / "through" / "listen"
    server = await asyncio.start_unix_server(echo, str(to))
    link = Link("database", [Way(listen=str(listen), to=str(to))])
    (proxy,) = await link.open()
    assert (listen.stat().st_mode & 0o777, listen.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    connection = await asyncio.open_unix_connection(str(listen))
    assert await exchange(connection, b"through") == b"through"
    connection[1].close()
    proxy.close()
    server.close()


@pytest.mark.parametrize(
    "request_",
    [
        {"do": "explode"},
        disturb(mode="magic"),
        disturb(mode="slow", latency_ms=-1),
        disturb(mode="slow", colour="red"),
        disturb(mode="lossy"),
        disturb(mode="slow", loss=0.5),
        disturb(mode="half-open", directions=["there"]),
        {**disturb(mode="reset"), "link": "elsewhere"},
        {**disturb(mode="reset"), "ttl_s": 0},
    ],
    ids=[
        "verb",
        "mode",
        "latency",
        "unknown field",
        "no loss",
        "loss of another",
        "half of half",
        "link",
        "time to live",
    ],
)
async def test_what_makes_no_sense_touches_nothing(links: Links, request_: dict[str, Any]) -> None:
    with pytest.raises(BadFault):
        await links.handle(request_)
    assert links.links["core"].fault is None


async def test_a_link_has_one_fault_at_a_time(links: Links) -> None:
    await links.handle(disturb(mode="black-hole"))
    with pytest.raises(BadFault, match="already"):
        await links.handle({**disturb(mode="reset"), "lease": "two"})
