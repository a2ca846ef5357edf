"""Is a process ready? One probe for each kind, all over the process' own identity, each with a deadline."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import grpc
import grpc.aio
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deploy.local import backup, door, envoy, links, postgres
from deploy.local.kafka import broker
from deploy.local.settings import Home
from deploy.local.topology import Listen, Process

PROBE_DEADLINE_S = 3.0
IDENTITY_FILES = ("svid.pem", "key.pem", "bundle.pem", "keypair.pem")
ANSWER_LINE_BYTES_MAX = 1024


class NotReady(Exception):
    """Not yet, and why. Worth asking again."""


Probe = Callable[[], Awaitable[None]]


def probe(home: Home, process: Process) -> Probe:
    """The probe that fits the process; it raises NotReady, and nothing else, while the process is not ready."""
    check = _check(home, process)

    async def within_deadline() -> None:
        try:
            async with asyncio.timeout(PROBE_DEADLINE_S):
                await check()
        except NotReady:
            raise
        except Exception as error:
            # Whatever a library raises while its server is still starting means the same thing here.
            raise NotReady(f"{type(error).__name__}: {error}") from error

    return within_deadline


def _check(home: Home, process: Process) -> Callable[[], Awaitable[None]]:
    identity = home.identity(process.name)
    if process.workload == "postgres":
        return lambda: postgres.ping(home, process.name)
    if process.workload == backup.WORKLOAD:
        return lambda: _receives_log(home)
    if process.workload == broker.WORKLOAD:
        return lambda: asyncio.to_thread(broker.ping, home, process, PROBE_DEADLINE_S)
    if process.workload.endswith("-gateway"):
        return lambda: _envoy_ready(envoy.admin_socket(home, process.name))
    if process.workload == links.NAME:
        return lambda: _door_answers(home, process)
    if process.workload.startswith("identity-"):
        # It serves files: when its own leaf is there and young, it works.
        return lambda: _has_identity(identity)
    served = process.listen("grpc") or process.listen("ads")
    if served:
        return lambda: _grpc_serving(served, identity)
    metrics = process.listen("metrics")
    assert metrics is not None, f"{process.name} has nothing that could be asked"
    return lambda: _https_answers(metrics, identity)


async def _receives_log(home: Home) -> None:
    if not await backup.receiving(home):
        raise NotReady("the primary does not send its log")


async def _door_answers(home: Home, process: Process) -> None:
    await asyncio.to_thread(door.call, door.path(home, process.name), PROBE_DEADLINE_S, do="active")


async def _has_identity(identity: Path) -> None:
    check_identity(identity)


def check_identity(identity: Path) -> float:
    """Seconds that the leaf in a directory still lives; NotReady while there is none that can be used."""
    missing = [name for name in IDENTITY_FILES if not (identity / name).exists()]
    if missing:
        raise NotReady(f"{identity / missing[0]} is not there yet")
    leaf = x509.load_pem_x509_certificate((identity / "svid.pem").read_bytes())
    remaining_s = (leaf.not_valid_after_utc - datetime.now(UTC)).total_seconds()
    if remaining_s <= 0:
        raise NotReady(f"the leaf in {identity} has expired")
    return remaining_s


async def _grpc_serving(listen: Listen, identity: Path) -> None:
    """The standard health protocol (grpc.health.v1), over mTLS."""
    credentials = grpc.ssl_channel_credentials(
        (identity / "bundle.pem").read_bytes(),
        (identity / "key.pem").read_bytes(),
        (identity / "svid.pem").read_bytes(),
    )
    # A channel of its own: grpc shares connections between equal channels, and a shared one would outlive a restart.
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
    async with grpc.aio.secure_channel(str(listen), credentials, options) as channel:
        request = health_pb2.HealthCheckRequest()
        answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=PROBE_DEADLINE_S)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise NotReady(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def tls_context(identity: Path) -> ssl.SSLContext:
    """Client side of TLS 1.3 with the process' own certificate."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(identity / "bundle.pem"))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(identity / "svid.pem", identity / "key.pem")
    return context


async def _https_answers(listen: Listen, identity: Path) -> None:
    connection = await asyncio.open_connection(
        listen.address, listen.port, ssl=tls_context(identity), server_hostname="localhost"
    )
    await _get(connection, "/metrics")


async def _envoy_ready(socket: Path) -> None:
    """Envoy says ready when its listeners and clusters have come from the control plane."""
    await _get(await asyncio.open_unix_connection(str(socket)), "/ready")


async def _get(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], path: str) -> None:
    reader, writer = connection
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        line = (await reader.readline())[:ANSWER_LINE_BYTES_MAX].decode("latin-1").strip()
    finally:
        writer.close()
    if " 200" not in line:
        raise NotReady(f"{path} answered {line or 'nothing'}")
