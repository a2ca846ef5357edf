"""What the only way in costs: a sensitive call through both gateways and a decision, against the service itself.

A mesh of its own, without Kafka. The call is the catalog's ListCampaigns: a token that is bound to a key, a read of
PostgreSQL, an audit record. Through the edge gateway over HTTPS, with a proof for each call; directly over mTLS as
gRPC, with the core gateway's certificate and an inner token that the decision point gave. Both sides are driven by the
same kind of loop, in interleaved rounds, and each figure is the median of the rounds. The decision alone is asked for
as the core gateway does, and counted by the processor time of the process that decides, so that its neighbours do not
matter: with a workload's token, bound to its certificate, and with a token and a proof, which is verified and noted.
"""

import asyncio
import contextlib
import shutil
import ssl
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import aiohttp
import grpc
import psutil
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from isthmus.catalog.v1 import catalog_pb2, catalog_pb2_grpc

from chaos.bench import revocations, tokens
from chaos.bench.decisions import Question, inner_token, sent_by
from chaos.bench.report import Result
from chaos.bench.tools import BenchError, free_ports
from chaos.load.client import PublicClient
from chaos.load.token import PatientToken
from deploy.local import processes
from deploy.local.mesh import LocalMesh
from mesh.client.token import ClientToken

PROCESSES: Final = ("edge-gateway", "core-gateway", "gateway", "oauth", "catalog", "orders")
PATH: Final = "/v1/campaigns"
METHOD: Final = "/isthmus.catalog.v1.Catalog/ListCampaigns"
# Decisions alone are asked about methods of members' rate class: of the catalog's a caller may make 2,000 a second.
DECIDED_BY_CERTIFICATE: Final = "/isthmus.oauth.v1.Accounts/SignOutEverywhere"
DECIDED_BY_KEY: Final = "/isthmus.orders.v1.Orders/GetOrder"
CALLERS: Final = 8
# So many that the process that decides is never idle: proofs that come together are noted together.
DECIDING_CALLERS: Final = 32
# As many as could be asked about in a round.
PREPARED: Final = 10_000
DECIDES: Final = "gateway-1"
ROUNDS: Final = 5
SECONDS: Final = 3.0
WARM_S: Final = 2.0
# The mesh takes this many neighbouring ports.
PORTS_SPAN: Final = 200
DECISIONS_PER_S: Final = 2_000.0
# A proof costs a signature to verify and a row to write.
PROVEN_RATIO_MIN: Final = 0.5
ADDED_MS_MAX: Final = 5.0
ROUTE_RATIO_MIN: Final = 0.4

Call = Callable[[], Awaitable[None]]


def run(home: Path) -> list[Result]:
    """Measure under `home`/bench/gateway. Raises BenchError."""
    bench = home / "bench" / "gateway"
    shutil.rmtree(bench, ignore_errors=True)
    bench.mkdir(parents=True)
    try:
        return asyncio.run(_measure(bench))
    finally:
        shutil.rmtree(bench, ignore_errors=True)


async def _measure(bench: Path) -> list[Result]:
    async with LocalMesh(bench, _port_base(), edge_nodes=1, only=PROCESSES) as mesh, _calls(mesh) as calls:
        through, direct, by_certificate, by_key = calls
        for call in (through, direct):
            await _rate(call, CALLERS, WARM_S)
        rates = [(await _rate(through, CALLERS, SECONDS), await _rate(direct, CALLERS, SECONDS)) for _ in range(ROUNDS)]
        medians = [(await _median_ms(through), await _median_ms(direct)) for _ in range(ROUNDS)]
        given = await tokens.measure(mesh, bench)
        reached = await revocations.measure(mesh, channel)
        per_core = [(await _per_core(by_certificate, mesh), await _per_core(by_key, mesh)) for _ in range(ROUNDS)]
    outside, inside = (statistics.median(each) for each in zip(*rates, strict=True))
    ratio = statistics.median(one / other for one, other in rates)
    added_ms = max(statistics.median(one - other for one, other in medians), 0.01)
    decisions, proven = (statistics.median(each) for each in zip(*per_core, strict=True))
    return [
        Result(
            "sensitive calls, edge to database",
            outside,
            "calls/s",
            "the service itself over mTLS",
            inside,
            ratio,
            ROUTE_RATIO_MIN,
        ),
        Result(
            "what the way in adds at the median",
            added_ms,
            "ms",
            "5 ms",
            ADDED_MS_MAX,
            ADDED_MS_MAX / added_ms,
            1.0,
        ),
        Result(
            "decisions of one core",
            decisions,
            "decisions/s of processor time",
            "2,000 a second",
            DECISIONS_PER_S,
            decisions / DECISIONS_PER_S,
            1.0,
        ),
        Result(
            "decisions of one core, each with a proof of a key",
            proven,
            "decisions/s of processor time",
            "2,000 a second",
            DECISIONS_PER_S,
            proven / DECISIONS_PER_S,
            PROVEN_RATIO_MIN,
        ),
        given,
        *reached,
    ]


def _port_base() -> int:
    for port in free_ports(50):
        if 20_000 <= port <= 60_000 - PORTS_SPAN:
            return port
    raise BenchError("no free ports between 20000 and 60000")


@contextlib.asynccontextmanager
async def _calls(mesh: LocalMesh) -> AsyncIterator[tuple[Call, Call, Question, Question]]:
    """A call through both gateways, one straight to the service, and a decision alone on either kind of token."""
    root = mesh.home.root / "ca" / "public" / "root.pem"
    key = mesh.home.run("oauth") / "clients" / "storefront.pem"
    origin, domain = mesh.urls["edge_gateway"], mesh.settings.trust_domain
    async with (
        PublicClient(origin, root, CALLERS) as client,
        channel(mesh, "catalog-1") as service,
        channel(mesh, DECIDES) as gateway,
    ):
        token = PatientToken(client, "storefront", key, "catalog.read orders.read")
        text, edge = await token.text(), sent_by(f"spiffe://{domain}/public/edge-gateway")
        about_catalog, about_orders = (
            Question(path, text, edge, origin, token.proofs) for path in (METHOD, DECIDED_BY_KEY)
        )
        operator = sent_by(f"spiffe://{domain}/private/operator", _certificate(mesh).fingerprint(SHA256()).hex())
        by_certificate = Question(DECIDED_BY_CERTIFICATE, await _operators_token(mesh), operator, origin, None)
        catalog = catalog_pb2_grpc.CatalogStub(service)
        inner: dict[str, object] = {"until": 0.0, "metadata": ()}

        async def through() -> None:
            answer = await token.send("GET", PATH)
            if answer.status != 200:
                raise BenchError(f"the call failed: {answer.status} {answer.body!r}")

        async def direct() -> None:
            # As the core gateway does it, but without asking about every call.
            if time.monotonic() > float(str(inner["until"])):
                answer = await about_catalog.ask(gateway)
                inner.update(until=time.monotonic() + 10, metadata=(("authorization", inner_token(answer)),))
            await catalog.ListCampaigns(
                catalog_pb2.ListCampaignsRequest(),
                metadata=inner["metadata"],  # type: ignore[arg-type]
                timeout=5.0,
            )

        yield through, direct, by_certificate, about_orders


def _certificate(mesh: LocalMesh) -> x509.Certificate:
    return x509.load_pem_x509_certificate((mesh.home.identity("operator") / "svid.pem").read_bytes())


async def _operators_token(mesh: LocalMesh) -> str:
    """Bound to the operator's certificate (RFC 8705)."""
    context = ssl.create_default_context(cafile=str(mesh.home.identity("operator") / "bundle.pem"))
    context.load_cert_chain(mesh.home.identity("operator") / "keypair.pem")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        return await ClientToken("operator", None, "accounts.write").text(session, mesh.urls["core_gateway"])


def channel(mesh: LocalMesh, process: str) -> grpc.aio.Channel:
    """To one process, with the core gateway's certificate."""
    row = next(row for row in mesh.rows if row.name == process)
    identity = mesh.home.identity("core-gateway")
    files = ((identity / name).read_bytes() for name in ("bundle.pem", "key.pem", "svid.pem"))
    name = f"{row.process.workload}.private.{mesh.settings.trust_domain}"
    options = (("grpc.ssl_target_name_override", name),)
    return grpc.aio.secure_channel(
        str(row.process.listen("grpc")), grpc.ssl_channel_credentials(*files), options=options
    )


async def _rate(call: Call, callers: int, seconds: float) -> float:
    """Calls per second of so many callers, each one after the other."""
    ends = time.monotonic() + seconds
    counts = await asyncio.gather(*(_loop(call, ends) for _ in range(callers)))
    return sum(counts) / seconds


async def _loop(call: Call, ends: float) -> int:
    made = 0
    while time.monotonic() < ends:
        await call()
        made += 1
    return made


async def _median_ms(call: Call) -> float:
    """The median time of a single caller's calls, for a second."""
    times: list[float] = []
    ends = time.monotonic() + 1.0
    while time.monotonic() < ends:
        started = time.monotonic()
        await call()
        times.append((time.monotonic() - started) * 1000)
    return statistics.median(times)


async def _per_core(question: Question, mesh: LocalMesh) -> float:
    """Decisions for each second of processor time of the process that decides."""
    running = processes.read_pid(mesh.home, DECIDES)
    if running is None:
        raise BenchError(f"the decision point does not run: see its log in logs/{DECIDES}.log")
    process = psutil.Process(running.pid)
    async with channel(mesh, DECIDES) as gateway:

        async def decide() -> None:
            answer = await question.ask(gateway)
            if answer.status.code != 0:
                raise BenchError(f"the decision was a refusal: {answer.denied_response.body}")

        # The nonce of now is learnt, and the connection made.
        await decide()
        question.prepare(PREPARED)
        before = process.cpu_times()
        made = await _rate(decide, DECIDING_CALLERS, SECONDS) * SECONDS
        after = process.cpu_times()
    return made / (after.user + after.system - before.user - before.system)
