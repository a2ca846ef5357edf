"""The HTTPS front on a real socket: who gets in, and that a rotation costs nobody a request."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from public_edge.http.server import HttpServer
from tests.ports import free_port
from tests.unit.edge.edge_room import EdgeRoom

ASK = {"slot": "top"}
# A library by its name is a bot, and slowed down.
BROWSER = "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0"
CLIENTS = 8
ROTATIONS = 3


def client_context(directory: Path, maximum: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(directory / "bundle.pem"))
    context.load_cert_chain(directory / "svid.pem", directory / "key.pem")
    if maximum is not None:
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1_2, maximum
    return context


class Front:
    def __init__(self, room: EdgeRoom, server: HttpServer, port: int, identity: Path) -> None:
        self.room, self.server, self.port, self.identity = room, server, port, identity
        self.url = f"https://127.0.0.1:{port}"

    async def serial(self, context: ssl.SSLContext) -> bytes:
        """The certificate that a new connection is shown."""
        _, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context)
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return bytes(shown)


@pytest.fixture
async def front(tmp_path: Path, identities) -> AsyncIterator[Front]:  # type: ignore[no-untyped-def]
    identity = identities.issue("public", "edge", "edge-under-test")
    port = free_port()
    room = EdgeRoom(tmp_path / "spool")
    server = HttpServer(room.app, f"127.0.0.1:{port}", identity)
    await server.start()
    yield Front(room, server, port, identity)
    await server.stop(5)
    room.spool.close()


async def test_the_gateway_gets_in_over_tls_1_3(front: Front, identities) -> None:  # type: ignore[no-untyped-def]
    context = client_context(identities.issue("public", "edge-gateway"))
    connector = aiohttp.TCPConnector(ssl=context)
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.post(f"{front.url}/v1/ads:decide", json=ASK) as answer,
    ):
        assert answer.status == 200
        assert (await answer.json())["creative"]["campaign_id"] == "shoes"


@pytest.mark.parametrize("workload", ["kafka", "edge", "control-public"])
async def test_nobody_but_a_gateway_gets_in(front: Front, identities, workload: str) -> None:  # type: ignore[no-untyped-def]
    context = client_context(identities.issue("public", workload, f"stranger-{workload}"))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        with pytest.raises(aiohttp.ClientError):
            await session.post(f"{front.url}/v1/ads:decide", json=ASK)
    assert front.room.events() == []


async def test_tls_1_2_and_no_certificate_are_refused(front: Front, identities) -> None:  # type: ignore[no-untyped-def]
    gateway = identities.issue("public", "edge-gateway")
    bare = ssl.create_default_context(cafile=str(gateway / "bundle.pem"))
    for context in (client_context(gateway, ssl.TLSVersion.TLSv1_2), bare):
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
            with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
                await session.post(f"{front.url}/v1/ads:decide", json=ASK)


@pytest.mark.parametrize("kept_alive", [True, False])
async def test_a_rotated_certificate_is_served_and_no_request_fails(front: Front, identities, kept_alive: bool) -> None:  # type: ignore[no-untyped-def]
    """As the gateway sees it, which tries once more where a connection was closed under a request."""
    context = client_context(identities.issue("public", "edge-gateway"))
    stopping = asyncio.Event()
    answered = repeated = 0

    async def ask(session: aiohttp.ClientSession) -> None:
        async with session.post(f"{front.url}/v1/ads:decide", json=ASK) as answer:
            assert answer.status == 200
            await answer.read()

    async def drive() -> None:
        nonlocal answered, repeated
        connector = aiohttp.TCPConnector(ssl=context, limit=1, force_close=not kept_alive)
        async with aiohttp.ClientSession(connector=connector, headers={"user-agent": BROWSER}) as session:
            while not stopping.is_set():
                try:
                    await ask(session)
                except aiohttp.ClientConnectionError:
                    repeated += 1
                    await ask(session)
                answered += 1

    async with asyncio.TaskGroup() as tasks, asyncio.timeout(90):
        for _ in range(CLIENTS):
            tasks.create_task(drive())
        for _ in range(ROTATIONS):
            before = await front.serial(context)
            reached = answered + 5 * CLIENTS
            while answered < reached:  # noqa: ASYNC110 - several clients count up
                await asyncio.sleep(0.01)
            identities.issue("public", "edge", "edge-under-test")
            await front.server.renewed()
            assert await front.serial(context) != before
        stopping.set()
    assert answered >= 5 * CLIENTS * ROTATIONS
    assert repeated <= CLIENTS * ROTATIONS, "a rotation closes each connection once at most"
