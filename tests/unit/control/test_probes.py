"""How an endpoint without gRPC is asked, over real TLS, and whose answer is believed."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path

import pytest
from aiohttp import web

from mesh.control.health import Health, State
from mesh.control.probes import Outcome, over_https
from mesh.control.registry import Endpoint
from mesh.settings import HEALTH_PATH
from mesh.spiffe import SpiffeId
from mesh.tls import Identity
from tests.ports import free_port
from tests.unit.mesh.conftest import Zone

GATEWAY = SpiffeId("public", "edge-gateway")
# As long as a starved machine may need; what never answers is given less.
WITHIN_S = 30.0


class Front:
    """An HTTPS server with the identity of a workload."""

    def __init__(self, zone: Zone, workload: str = "edge-gateway") -> None:
        self.context = Identity(zone.issue(workload)).ssl_context(server=True)
        self.status = HTTPStatus.OK
        self.port = free_port()
        # How many connections were made.
        self.connections: set[object] = set()

    async def answer(self, request: web.Request) -> web.Response:
        assert request.path == HEALTH_PATH
        self.connections.add(request.transport)
        return web.Response(status=self.status)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_get("/{path:.*}", self.answer)
        runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port, ssl_context=self.context).start()
        try:
            yield f"127.0.0.1:{self.port}"
        finally:
            await runner.cleanup()


@pytest.fixture
def public(tmp_path: Path) -> Zone:
    return Zone(tmp_path, "public")


async def outcome(zone: Zone, address: str, within_s: float = WITHIN_S) -> Outcome:
    async with over_https(address, Identity(zone.issue("control-public")), GATEWAY) as probe:
        return await probe.ask(within_s)


@pytest.mark.parametrize(
    ("status", "found"),
    [
        (HTTPStatus.OK, Outcome.SERVING),
        (HTTPStatus.SERVICE_UNAVAILABLE, Outcome.NOT_SERVING),
        (HTTPStatus.NOT_FOUND, Outcome.FAILED),
        (HTTPStatus.FOUND, Outcome.FAILED),
    ],
)
async def test_the_status_says_how_it_is(public: Zone, status: HTTPStatus, found: Outcome) -> None:
    front = Front(public)
    front.status = status
    async with front.serving() as address:
        assert await outcome(public, address) is found


async def test_probes_share_a_connection(public: Zone) -> None:
    front = Front(public)
    async with (
        front.serving() as address,
        over_https(address, Identity(public.issue("control-public")), GATEWAY) as probe,
    ):
        assert [await probe.ask(WITHIN_S) for _ in range(3)] == [Outcome.SERVING] * 3
    assert len(front.connections) == 1


async def test_another_workload_of_the_zone_is_not_believed(public: Zone) -> None:
    async with Front(public, "edge").serving() as address:
        assert await outcome(public, address) is Outcome.FAILED


async def test_the_same_workload_of_another_zone_is_not_believed(public: Zone) -> None:
    async with Front(Zone(public.home, "private")).serving() as address:
        assert await outcome(public, address) is Outcome.FAILED


async def test_tls_1_2_is_not_spoken(public: Zone) -> None:
    front = Front(public)
    front.context.minimum_version = front.context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with front.serving() as address:
        assert await outcome(public, address) is Outcome.FAILED


async def test_the_asker_shows_its_own_certificate(public: Zone) -> None:
    seen: list[object] = []
    front = Front(public)

    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        seen.append(request.transport.get_extra_info("peercert")["subjectAltName"][0])
        return web.Response()

    front.answer = answer  # type: ignore[method-assign]
    async with front.serving() as address:
        assert await outcome(public, address) is Outcome.SERVING
    assert seen == [("URI", "spiffe://isthmus.internal/public/control-public")]


async def test_who_takes_connections_and_says_nothing_has_failed_and_a_refused_one_too(public: Zone) -> None:
    closed = asyncio.Event()

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await closed.wait()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        # Unsure, should this process not have run meanwhile.
        assert await outcome(public, address, 0.1) in (Outcome.FAILED, Outcome.UNSURE)
    finally:
        closed.set()
        server.close()
        await server.wait_closed()
    assert await outcome(public, address) is Outcome.FAILED


async def test_a_gateway_is_healthy_then_draining_then_unhealthy_and_comes_back(public: Zone) -> None:
    front, changed = Front(public), asyncio.Event()
    endpoint = Endpoint("edge-gateway", "metrics", "gw-1", "public", "127.0.0.1", front.port, protocol="https")
    identity = Identity(public.issue("control-public"))
    health = Health(identity, "isthmus.internal", changed.set, interval_s=0.02, timeout_s=WITHIN_S, probes_max=2)

    async def becomes(state: State) -> None:
        async with asyncio.timeout(WITHIN_S):
            while health.state("gw-1") is not state:
                await changed.wait()
                changed.clear()

    health.watch([endpoint])
    try:
        async with front.serving():
            await becomes(State.HEALTHY)
            front.status = HTTPStatus.SERVICE_UNAVAILABLE
            await becomes(State.DRAINING)
        await becomes(State.UNHEALTHY)
        front.status = HTTPStatus.OK
        async with front.serving():
            await becomes(State.HEALTHY)
    finally:
        await health.stop(1)


async def test_a_rotated_leaf_is_shown_on_the_next_connection(public: Zone) -> None:
    front, seen, renewed = Front(public), asyncio.Queue[str](), asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        seen.put_nowait(request.transport.get_extra_info("peercert")["serialNumber"])
        return web.Response()

    front.answer = answer  # type: ignore[method-assign]
    endpoint = Endpoint("edge-gateway", "metrics", "gw-1", "public", "127.0.0.1", front.port, protocol="https")
    identity = Identity(public.issue("control-public"))
    health = Health(identity, "isthmus.internal", lambda: None, interval_s=0.02, timeout_s=WITHIN_S, probes_max=2)
    await health.start()
    identity.on_change(lambda _: renewed.set())
    watching = asyncio.create_task(identity.watch())
    health.watch([endpoint])
    try:
        async with asyncio.timeout(WITHIN_S):
            async with front.serving():
                before = await seen.get()
            public.issue("control-public")
            await renewed.wait()
            async with front.serving():
                while await seen.get() == before:
                    """One that was under way when the front went down."""
    finally:
        watching.cancel()
        await health.stop(1)
