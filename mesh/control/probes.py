"""How one endpoint is asked whether it is well: by gRPC's own protocol, or by HTTP where no gRPC is spoken.

Both over mTLS with TLS 1.3 alone, and only the workload that the table names there is believed: its leaf must carry the
DNS name that goes with its SPIFFE id.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from http import HTTPStatus
from typing import Final

import aiohttp
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh.control.registry import HEALTH_PATH
from mesh.spiffe import SpiffeId
from mesh.tls import Identity

# A probe whose own clock ran so much too late says more about this process than about the endpoint.
_LATE_S: Final = 0.25
_OPTIONS: Final = (
    # Connections of our own: a shared one would outlive the endpoint's restart.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 400),
    ("grpc.max_reconnect_backoff_ms", 400),
)


class Outcome(Enum):
    """Of one probe."""

    SERVING = 1
    NOT_SERVING = 2
    FAILED = 3
    # Asked in vain because this process itself did not get to run.
    UNSURE = 4


@dataclass(frozen=True, slots=True)
class Probe:
    """Asks one endpoint, over a connection that stays open."""

    # Takes the seconds that the answer may take.
    ask: Callable[[float], Awaitable[Outcome]]
    # Set when the connection is lost, where that is seen: the death of a process, before a probe is due.
    lost: asyncio.Event = field(default_factory=asyncio.Event)


@contextlib.asynccontextmanager
async def over_grpc(address: str, identity: Identity, peer: SpiffeId) -> AsyncIterator[Probe]:
    """The standard health protocol (grpc.health.v1), of the server as a whole."""
    options = (*_OPTIONS, ("grpc.ssl_target_name_override", peer.dns_name))
    async with grpc.aio.secure_channel(address, identity.channel_credentials(), options) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        async def ask(timeout_s: float) -> Outcome:
            started = time.monotonic()
            try:
                answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
            except grpc.aio.AioRpcError:
                return _failed(started, timeout_s)
            serving = answer.status == health_pb2.HealthCheckResponse.SERVING
            return Outcome.SERVING if serving else Outcome.NOT_SERVING

        async with _losses(channel) as lost:
            yield Probe(ask, lost)


@contextlib.asynccontextmanager
async def over_https(address: str, identity: Identity, peer: SpiffeId) -> AsyncIterator[Probe]:
    """GET HEALTH_PATH: 200 serves, 503 says that it takes no more calls, and anything else is a failure."""
    connector = aiohttp.TCPConnector(ssl=identity.ssl_context(server=False), limit=1)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def ask(timeout_s: float) -> Outcome:
            started = time.monotonic()
            try:
                async with session.get(
                    f"https://{address}{HEALTH_PATH}",
                    server_hostname=peer.dns_name,
                    timeout=aiohttp.ClientTimeout(total=timeout_s),
                    allow_redirects=False,
                ) as answer:
                    return _OUTCOMES.get(answer.status, Outcome.FAILED)
            except (aiohttp.ClientError, OSError):
                # A deadline that passed is an OSError too.
                return _failed(started, timeout_s)

        yield Probe(ask)


_OUTCOMES: Final[dict[int, Outcome]] = {
    HTTPStatus.OK: Outcome.SERVING,
    HTTPStatus.SERVICE_UNAVAILABLE: Outcome.NOT_SERVING,
}


def _failed(started: float, timeout_s: float) -> Outcome:
    late = time.monotonic() - started > timeout_s + _LATE_S
    return Outcome.UNSURE if late else Outcome.FAILED


@contextlib.asynccontextmanager
async def _losses(channel: grpc.aio.Channel) -> AsyncIterator[asyncio.Event]:
    """An event that is set when the connection is lost."""
    lost = asyncio.Event()

    async def watch() -> None:
        while True:
            state = channel.get_state()
            await channel.wait_for_state_change(state)
            if state is grpc.ChannelConnectivity.READY:
                lost.set()

    watching = asyncio.create_task(watch(), name="connection")
    try:
        yield lost
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
