"""How one endpoint is asked whether it is well: by gRPC's own protocol, by HTTP where no gRPC is spoken, or by Kafka's.

All over mTLS with TLS 1.3 alone, and only the workload that the table names there is believed: its leaf must carry the
DNS name that goes with its SPIFFE id.
"""

import asyncio
import contextlib
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from http import HTTPStatus
from typing import Final

import aiohttp
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh.settings import HEALTH_PATH
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


@contextlib.asynccontextmanager
async def over_kafka(address: str, identity: Identity, peer: SpiffeId) -> AsyncIterator[Probe]:
    """A broker says which requests it knows (ApiVersions, KIP-35), which needs no right: any answer serves.

    Asked of the threads that work on all requests; a handshake alone would be answered by others.
    """
    host, port = address.rsplit(":", 1)
    context = identity.ssl_context(server=False)
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def asked() -> None:
        nonlocal streams
        if streams is None:
            streams = await asyncio.open_connection(host, int(port), ssl=context, server_hostname=peer.dns_name)
        reader, writer = streams
        writer.write(_API_VERSIONS)
        await writer.drain()
        size, number = _ANSWER.unpack(await reader.readexactly(_ANSWER.size))
        if number != _CORRELATION or not 0 < size - 4 <= _ANSWER_BYTES_MAX:
            raise ConnectionError("this is no answer of a broker")
        await reader.readexactly(size - 4)

    async def ask(timeout_s: float) -> Outcome:
        nonlocal streams
        started = time.monotonic()
        try:
            async with asyncio.timeout(timeout_s):
                await asked()
        except (OSError, EOFError):
            # What comes late would be taken for the answer to the next. A deadline that passed is an OSError too.
            if streams is not None:
                streams[1].transport.abort()
                streams = None
            return _failed(started, timeout_s)
        return Outcome.SERVING

    try:
        yield Probe(ask)
    finally:
        if streams is not None:
            streams[1].transport.abort()


# Kafka protocol, request header v1: size, API key 18, version 0, correlation id, client id. No body.
_CORRELATION: Final = 1
_CLIENT: Final = b"isthmus-control"
_HEADER: Final = struct.pack(">hhih", 18, 0, _CORRELATION, len(_CLIENT)) + _CLIENT
_API_VERSIONS: Final = struct.pack(">i", len(_HEADER)) + _HEADER
_ANSWER: Final = struct.Struct(">ii")
_ANSWER_BYTES_MAX: Final = 64 << 10

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
