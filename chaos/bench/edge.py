"""How fast one edge node answers real ad decisions: choice, signature, event written to the spool.

All servers speak TLS 1.3 with the mesh's own certificates (the edge and its hello with both sides', FastAPI and a
second hello, which relates the two, with the server's), take the same GET and run at the same time; rounds are
interleaved and the ratio is the median of the rounds' ratios, so that a neighbour on the machine disturbs both sides.
Kafka is away: the spool takes everything, as it must.
"""

import asyncio
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

from google.protobuf import json_format
from isthmus.catalog.v1.catalog_pb2 import Campaign

from chaos.bench import edge_gateway
from chaos.bench.identities import issue
from chaos.bench.report import Result
from chaos.bench.tools import BenchError, by_ab, by_wrk, free_ports, require_load_tools, running

CONNECTIONS = 32
# Envoy and the node behind it hand each other what they have in batches: with 32 connections, one of the two waits.
GATEWAY_CONNECTIONS = 128
SECONDS = 3.0
ROUNDS = 5
CAMPAIGNS = (10, 1_000, 100_000)
_FEATURES = {f"user_feature_{number}": f"{number}abcdef" for number in range(4)}
_ASK = "/v1/ads:decide?" + urlencode(
    {"slot": "position-1", "viewer": "v"} | {f"features.{name}": value for name, value in _FEATURES.items()}
)
_NO_TLS_1_2 = "ECDHE-RSA-AES256-GCM-SHA384"


def run(home: Path) -> list[Result]:
    """Measure under `home`/bench/edge. Raises BenchError."""
    require_load_tools()
    bench = home / "bench" / "edge"
    shutil.rmtree(bench, ignore_errors=True)
    bench.mkdir(parents=True)
    try:
        return _measure(bench)
    finally:
        for leftover in ("spool", "run", "ca", "mesh"):
            shutil.rmtree(bench / leftover, ignore_errors=True)


def _measure(bench: Path) -> list[Result]:
    issue(bench, {"edge-1": ("public", "edge"), "edge-gateway": ("public", "edge-gateway")})
    live = bench / "run" / "edge-1" / "identity" / "live"
    client = bench / "run" / "edge-gateway" / "identity" / "live"
    pem = bench / "run" / "client.pem"
    pem.touch(mode=0o600)
    pem.write_bytes((client / "svid.pem").read_bytes() + (client / "key.pem").read_bytes())
    with contextlib.ExitStack() as servers:
        mutual = {"hello": servers.enter_context(_hello(bench, live, mutual=True))}
        for campaigns in CAMPAIGNS:
            mutual[f"edge {campaigns}"] = servers.enter_context(_edge(bench, campaigns))
        plain = {
            "hello, no client certificate": servers.enter_context(_hello(bench, live, mutual=False)),
            "fastapi": servers.enter_context(_fastapi(bench, live)),
        }

        def measure(seconds: float) -> dict[str, float]:
            rates = {
                name: by_ab(url, connections=CONNECTIONS, seconds=seconds, pem=pem) for name, url in mutual.items()
            }
            for name, url in plain.items():
                rates[name] = by_wrk(url, connections=CONNECTIONS, seconds=seconds)
            # The yardstick that both tools have measured carries FastAPI's rate over to the edge's transport.
            rates["fastapi"] *= rates["hello"] / rates["hello, no client certificate"]
            return rates

        measure(1)
        rounds = [measure(SECONDS) for _ in range(ROUNDS)]
    published = [json_format.ParseDict(campaign, Campaign()) for campaign in _campaigns(CAMPAIGNS[1])]
    through = asyncio.run(
        edge_gateway.measure(bench, published, _mutual_hello, _ASK, GATEWAY_CONNECTIONS, SECONDS, ROUNDS)
    )
    few, some, many = (f"edge {campaigns}" for campaigns in CAMPAIGNS)
    return [
        _result("ad decisions, 1,000 campaigns", some, "granian RSGI hello, one worker", "hello", rounds, 0.6),
        _result("ad decisions, 1,000 campaigns", some, "FastAPI on uvicorn, a constant", "fastapi", rounds, 3.0),
        _result("through the edge gateway", "gateway", "Envoy before the bare hello", "envoy", through, 0.6),
        _result("ad decisions, 1,000 campaigns", some, "ad decisions, 10 campaigns", few, rounds, 0.8),
        _result("ad decisions, 100,000 campaigns", many, "ad decisions, 10 campaigns", few, rounds, 0.7),
    ]


def _result(
    name: str, side: str, baseline: str, baseline_side: str, rounds: list[dict[str, float]], target: float
) -> Result:
    return Result(
        name=name,
        value=statistics.median(entry[side] for entry in rounds),
        unit="req/s",
        baseline=baseline,
        baseline_value=statistics.median(entry[baseline_side] for entry in rounds),
        ratio=round(statistics.median(entry[side] / entry[baseline_side] for entry in rounds), 3),
        target=target,
    )


@contextlib.contextmanager
def _hello(bench: Path, live: Path, *, mutual: bool) -> Iterator[str]:
    (port,) = free_ports(1)
    command = [
        *(sys.executable, "-m", "granian", "--interface", "rsgi", "--workers", "1", "--no-log", "--no-ws"),
        *("--host", "127.0.0.1", "--port", str(port), "--loop", "uvloop"),
        *("--ssl-certificate", str(live / "svid.pem"), "--ssl-keyfile", str(live / "key.pem")),
        *(("--ssl-ca", str(live / "gateway-ca.pem"), "--ssl-client-verify") if mutual else ()),
        "chaos.bench.baselines:hello",
    ]
    with running(command, port, bench / f"hello-{mutual}.log", os.environ):
        yield f"https://127.0.0.1:{port}{_ASK}"


def _mutual_hello(bench: Path, live: Path) -> contextlib.AbstractContextManager[str]:
    return _hello(bench, live, mutual=True)


@contextlib.contextmanager
def _fastapi(bench: Path, live: Path) -> Iterator[str]:
    (port,) = free_ports(1)
    command = [
        *(sys.executable, "-m", "uvicorn", "--factory", "--workers", "1", "--loop", "uvloop", "--http", "auto"),
        *("--host", "127.0.0.1", "--port", str(port), "--log-level", "warning", "--no-access-log"),
        *("--ssl-certfile", str(live / "svid.pem"), "--ssl-keyfile", str(live / "key.pem")),
        "chaos.bench.baselines:constant",
    ]
    with running(command, port, bench / "fastapi.log", os.environ):
        yield f"https://127.0.0.1:{port}{_ASK}"


@contextlib.contextmanager
def _edge(bench: Path, campaigns: int) -> Iterator[str]:
    node = f"edge-{campaigns}"
    http, grpc, kafka_that_is_away = free_ports(3)
    _write_snapshot(bench / "run" / node / "snapshot.bin", campaigns)
    environment = os.environ | {
        "ISTHMUS_HOME": str(bench),
        "ISTHMUS_ZONE": "public",
        "ISTHMUS_WORKLOAD": "edge",
        "ISTHMUS_NODE": node,
        "ISTHMUS_IDENTITY_DIR": str(bench / "run" / "edge-1" / "identity" / "live"),
        "ISTHMUS_HTTP_ADDRESS": f"127.0.0.1:{http}",
        "ISTHMUS_GRPC_ADDRESS": f"127.0.0.1:{grpc}",
        "ISTHMUS_KAFKA_BOOTSTRAP": f"127.0.0.1:{kafka_that_is_away}",
        "ISTHMUS_TRACE_RATIO": "0",
        "GRPC_SSL_CIPHER_SUITES": _NO_TLS_1_2,
    }
    with running([sys.executable, "-m", "public_edge.node"], http, bench / f"{node}.log", environment):
        yield f"https://127.0.0.1:{http}{_ASK}"


def _campaigns(count: int) -> Iterator[dict[str, object]]:
    """Half of them are for everybody, half target what the request says; all share three slots."""
    for number in range(count):
        campaign: dict[str, object] = {
            "campaign_id": f"campaign-{number}",
            "slots": [f"position-{number % 3 + 1}"],
            "weight": 1 + number % 7,
            "budget_impressions": "1000000000",
            "frequency_cap_per_day": 1000000 if number % 2 else 0,
            "creatives": [
                {
                    "creative_id": f"creative-{number}",
                    "title": f"Item {number}",
                    "image_url": f"https://images.example/{number}.jpg",
                    "landing_url": f"https://shop.example/items/{number}",
                }
            ],
            "version": "1",
        }
        if number % 2:
            campaign["targeting"] = {"user_feature_0": _FEATURES["user_feature_0"]}
        yield campaign


def _write_snapshot(path: Path, campaigns: int) -> None:
    lines = [json.dumps({"campaign": campaign}) for campaign in _campaigns(campaigns)]
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "public_edge.snapshot", str(path)]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise BenchError(f"the snapshot could not be written: {done.stderr[-500:]}")
