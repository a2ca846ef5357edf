"""What the only way in costs: a sensitive call through both gateways and a decision, against the service itself.

A mesh of its own, without Kafka. The call is the catalog's ListCampaigns: a token that is bound to nobody, a read of
PostgreSQL, an audit record. Through the edge gateway over HTTPS; directly over mTLS as gRPC, with the core gateway's
certificate and an inner token that the decision point gave. Both sides are driven by the same kind of loop, in
interleaved rounds, and each figure is the median of the rounds. The decision alone is asked as the core gateway asks,
and counted by the processor time of the process that decides, so that its neighbours do not matter.
"""

import asyncio
import contextlib
import shutil
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import grpc
import psutil
from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc
from isthmus.catalog.v1 import catalog_pb2, catalog_pb2_grpc

from chaos.bench import revocations, tokens
from chaos.bench.report import Result
from chaos.bench.tools import BenchError, free_ports
from chaos.load.client import PublicClient
from chaos.load.token import PatientToken
from deploy.local import processes
from deploy.local.mesh import LocalMesh
from deploy.local.settings import Home

PROCESSES: Final = ("edge-gateway", "core-gateway", "gateway", "oauth", "catalog")
PATH: Final = "/v1/campaigns"
METHOD: Final = "/isthmus.catalog.v1.Catalog/ListCampaigns"
# Decisions alone are asked about a method of members' rate class: of the catalog's a caller may make 2,000 a second.
DECIDED: Final = "/isthmus.orders.v1.Orders/GetOrder"
CALLERS: Final = 8
ROUNDS: Final = 5
SECONDS: Final = 3.0
WARM_S: Final = 2.0
# The mesh takes this many neighbouring ports.
PORTS_SPAN: Final = 200
DECISIONS_PER_S: Final = 2_000.0
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
        through, direct, decide = calls
        for call in calls:
            await _rate(call, CALLERS, WARM_S)
        rates = [(await _rate(through, CALLERS, SECONDS), await _rate(direct, CALLERS, SECONDS)) for _ in range(ROUNDS)]
        medians = [(await _median_ms(through), await _median_ms(direct)) for _ in range(ROUNDS)]
        given = await tokens.measure(mesh, bench)
        reached = await revocations.measure(mesh, _asked(mesh), _channel)
        per_core = [await _per_core(decide, mesh.home) for _ in range(ROUNDS)]
    outside, inside = (statistics.median(each) for each in zip(*rates, strict=True))
    ratio = statistics.median(one / other for one, other in rates)
    added_ms = max(statistics.median(one - other for one, other in medians), 0.01)
    decisions = statistics.median(per_core)
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
        given,
        reached,
    ]


def _port_base() -> int:
    for port in free_ports(50):
        if 20_000 <= port <= 60_000 - PORTS_SPAN:
            return port
    raise BenchError("no free ports between 20000 and 60000")


@contextlib.asynccontextmanager
async def _calls(mesh: LocalMesh) -> AsyncIterator[tuple[Call, Call, Call]]:
    """One call each: through both gateways, straight to the service, and a decision alone."""
    root = mesh.home.root / "ca" / "public" / "root.pem"
    key = mesh.home.run("oauth") / "clients" / "storefront.pem"
    async with (
        PublicClient(mesh.urls["edge_gateway"], root, CALLERS) as client,
        _channel(mesh, "catalog-1") as service,
        _channel(mesh, "gateway-1") as gateway,
    ):
        token = PatientToken(client, "storefront", key, "catalog.read orders.read")
        headers = await token.authorization()
        check, about_orders = _asked(mesh), _asked(mesh, DECIDED)
        for asked in (check, about_orders):
            asked.attributes.request.http.headers.update(headers)
        decisions = external_auth_pb2_grpc.AuthorizationStub(gateway)
        catalog = catalog_pb2_grpc.CatalogStub(service)
        inner: dict[str, object] = {"until": 0.0, "metadata": ()}

        async def decide() -> None:
            answer = await decisions.Check(about_orders, timeout=5.0)
            if answer.status.code != 0:
                raise BenchError(f"the decision was a refusal: {answer.denied_response.body}")

        async def through() -> None:
            answer = await client.send("GET", PATH, headers=headers)
            if answer.status != 200:
                raise BenchError(f"the call failed: {answer.status} {answer.body!r}")

        async def direct() -> None:
            # As the core gateway does it, but without asking about every call.
            if time.monotonic() > float(str(inner["until"])):
                answer = await decisions.Check(check, timeout=5.0)
                [header] = answer.ok_response.headers
                inner.update(until=time.monotonic() + 10, metadata=(("authorization", header.header.value),))
            await catalog.ListCampaigns(
                catalog_pb2.ListCampaignsRequest(),
                metadata=inner["metadata"],  # type: ignore[arg-type]
                timeout=5.0,
            )

        yield through, direct, decide


def _asked(mesh: LocalMesh, method: str = METHOD) -> external_auth_pb2.CheckRequest:
    """What the core gateway asks about a call from outside, but for its token."""
    check = external_auth_pb2.CheckRequest()
    check.attributes.request.http.method = "GET"
    check.attributes.request.http.path = method
    outside = f"Hash={'0' * 64};URI=spiffe://{mesh.settings.trust_domain}/public/edge-gateway"
    check.attributes.request.http.headers["x-forwarded-client-cert"] = outside
    return check


def _channel(mesh: LocalMesh, process: str) -> grpc.aio.Channel:
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


async def _per_core(decide: Call, home: Home) -> float:
    """Decisions for each second of processor time of the process that decides."""
    running = processes.read_pid(home, "gateway-1")
    if running is None:
        raise BenchError("the decision point does not run: see its log in logs/gateway-1.log")
    process = psutil.Process(running.pid)
    before = process.cpu_times()
    made = await _rate(decide, CALLERS, SECONDS) * SECONDS
    after = process.cpu_times()
    return made / (after.user + after.system - before.user - before.system)
