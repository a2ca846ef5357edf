"""What the mesh costs a call, and how fast the control plane tells of a change, to few and to many.

Everything runs over the mesh's own mTLS. Calls: a bare grpc.aio server and one with everything that stands before a
handler run at the same time and take the same calls in interleaved rounds. Changes: a real control plane, real servers
and a real `xds:///` client. Fleet: the real ADS with a simulated fleet of services, and as many streams as data planes.
"""

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from chaos.bench.identities import issue
from chaos.bench.report import Result
from chaos.bench.tools import BenchError, free_ports, running
from deploy.local.settings import Home
from deploy.local.topology import Process
from deploy.local.xds_bootstrap import write_xds_bootstrap
from mesh.environment import GRPC

PLANES: Final = (10, 100, 500)
SERVICES: Final = 1_000
ENDPOINTS_EACH: Final = 10
# What one sidecar costs istiod, by its project's own figures: 1.5 GB for 1,000 services and 2,000 sidecars.
ISTIOD_KIB: Final = 1.5 * 1024 * 1024 / 2_000
ADDED_MS_MAX: Final = 0.3
JOINED_MS_MAX: Final = 50.0
# A second, and the interval at which nodes are probed.
MOVED_MS_MAX: Final = 1_500.0
TOLD_MS_MAX: Final = 1_000.0
CONVERGED_S_MAX: Final = 10.0
_WITHIN_S: Final = 600.0


def run(home: Path) -> list[Result]:
    """Measure under `home`/bench/mesh. Raises BenchError."""
    bench = home / "bench" / "mesh"
    shutil.rmtree(bench, ignore_errors=True)
    bench.mkdir(parents=True)
    workloads = {"orders-1": "orders", "orders-2": "orders", "payments-1": "payments"}
    workloads["control-private"] = "control-private"
    issue(bench, {name: ("private", workload) for name, workload in workloads.items()})
    token = _token(bench)
    try:
        return [*_calls(bench, token), *_changes(bench, token), *fleet(bench)]
    finally:
        for leftover in ("run", "ca"):
            shutil.rmtree(bench / leftover, ignore_errors=True)


def _calls(bench: Path, token: str) -> list[Result]:
    bare, mesh = free_ports(2)
    with _orders(bench, "bare", "orders-1", bare), _orders(bench, "mesh", "orders-1", mesh):
        settings = {"identity": _identity(bench, "payments-1"), "token": token}
        found = _drive("calls", {**settings, "bare": f"127.0.0.1:{bare}", "mesh": f"127.0.0.1:{mesh}"}, {})
    rates, medians = found["rates"], found["medians"]
    added = statistics.median(each["mesh"] - each["bare"] for each in medians)
    return [
        Result(
            "private calls, everything on",
            statistics.median(each["mesh"] for each in rates),
            "calls/s",
            "bare grpc.aio over the same mTLS",
            statistics.median(each["bare"] for each in rates),
            round(statistics.median(each["mesh"] / each["bare"] for each in rates), 3),
            0.75,
        ),
        _bound("what the mesh adds at the median", added * 1000, "us", ADDED_MS_MAX * 1000),
    ]


def _changes(bench: Path, token: str) -> list[Result]:
    ports = dict(zip(("control-private", "orders-1", "orders-2"), free_ports(3), strict=True))
    rows = [_row(name, "orders", ("grpc", port)) for name, port in ports.items() if name != "control-private"]
    rows.append(_row("control-private", "control-private", ("ads", ports["control-private"])))
    rows.append(_row("payments-1", "payments", ("grpc", 1)))
    (bench / "topology.json").write_text(json.dumps({"trust_domain": "isthmus.internal", "processes": rows}))
    control = f"127.0.0.1:{ports['control-private']}"
    write_xds_bootstrap(Home(bench), Process("payments-1", "private", "payments", "payments-1"), control)
    environment = _environment(bench, "control-private", "control-private", ports["control-private"])
    command = [sys.executable, "-m", "mesh.control"]
    with contextlib.ExitStack() as servers:
        servers.enter_context(_orders(bench, "mesh", "orders-1", ports["orders-1"]))
        pid = servers.enter_context(_orders(bench, "mesh", "orders-2", ports["orders-2"]))
        servers.enter_context(running(command, ports["control-private"], bench / "control.log", environment))
        settings = {
            "identity": _identity(bench, "payments-1"),
            "token": token,
            "topology": str(bench / "topology.json"),
            "processes": rows,
            "joining": "orders-2",
            "pid": pid,
        }
        bootstrap = {"GRPC_XDS_BOOTSTRAP": str(Home(bench).run("payments-1") / "xds-bootstrap.json")}
        found = _drive("changes", settings, bootstrap)
    joined, moved = sorted(found["joined_ms"]), sorted(found["moved_ms"])
    return [
        _bound("endpoint change to first call, p99", joined[int(len(joined) * 0.99) - 1], "ms", JOINED_MS_MAX),
        _bound("frozen endpoint to traffic moved, slowest", moved[-1], "ms", MOVED_MS_MAX),
    ]


def fleet(bench: Path) -> list[Result]:
    """With the identities that lie under `bench`. Raises BenchError."""
    found = {}
    for planes in PLANES:
        (port,) = free_ports(1)
        environment = _environment(bench, "control-private", "control-private", port)
        added = {name: value for name, value in environment.items() if os.environ.get(name) != value}
        scale = (str(SERVICES), str(ENDPOINTS_EACH), str(planes + 8))
        settings = {
            "identity": _identity(bench, "orders-1"),
            "address": f"127.0.0.1:{port}",
            "command": [sys.executable, "-m", "chaos.bench.fleet_server", *scale],
            "environment": added,
            "services": SERVICES,
            "planes": planes,
        }
        found[planes] = _drive("fleet", settings, {})
    large = PLANES[-1]
    memory = found[large]["resident_kib"] / large
    grown = [
        _grown(name, figure, unit, found, pair, target)
        for name, figure, unit, target in (
            ("time to full convergence", "converged_s", "ms", 0.4),
            ("CPU", "cpu_s", "ms", 0.8),
            ("memory", "resident_kib", "KiB", 0.8),
        )
        for pair in pairwise(PLANES)
    ]
    return [
        *grown,
        Result(
            f"memory per data plane, {large} of them, against a sidecar's",
            round(memory, 1),
            "KiB",
            "istiod, per sidecar",
            ISTIOD_KIB,
            round(ISTIOD_KIB / max(memory, 1.0), 3),
            1.0,
        ),
        _bound(f"time to full convergence, {large} data planes", found[large]["converged_s"], "s", CONVERGED_S_MAX),
        _bound(f"a changed endpoint told to {large} data planes", found[large]["told_ms"], "ms", TOLD_MS_MAX),
    ]


def _grown(
    name: str, figure: str, unit: str, found: dict[int, dict[str, Any]], pair: tuple[int, int], target: float
) -> Result:
    """What one of many data planes costs, against one of few."""
    few, many = pair
    value, baseline = (found[count][figure] / count * (1000 if unit == "ms" else 1) for count in (many, few))
    ratio = round(baseline / max(value, 0.001), 3)
    title = f"{name} per data plane, {many} of them"
    return Result(title, round(value, 3), unit, f"{few} of them", round(baseline, 3), ratio, target)


def _bound(name: str, value: float, unit: str, at_most: float) -> Result:
    return Result(name, round(value, 3), unit, "at most", at_most, round(at_most / max(value, 0.001), 3), 1.0)


def _drive(what: str, settings: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "chaos.bench.mesh_driver", what, json.dumps(settings)]
    done = subprocess.run(
        command, env={**os.environ, **GRPC, **environment}, capture_output=True, timeout=_WITHIN_S, check=False
    )
    if done.returncode:
        raise BenchError(f"{what} could not be measured: {done.stderr.decode(errors='replace')[-1000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextlib.contextmanager
def _orders(bench: Path, mode: str, node: str, port: int) -> Iterator[int]:
    command = [sys.executable, "-m", "chaos.bench.call_server", mode]
    log = bench / f"{node}-{mode}.log"
    with running(command, port, log, _environment(bench, node, "orders", port)) as pid:
        yield pid


def _environment(bench: Path, node: str, workload: str, port: int) -> dict[str, str]:
    return {
        **os.environ,
        **GRPC,
        "ISTHMUS_HOME": str(bench),
        "ISTHMUS_ZONE": "private",
        "ISTHMUS_WORKLOAD": workload,
        "ISTHMUS_NODE": node,
        "ISTHMUS_IDENTITY_DIR": _identity(bench, node),
        "ISTHMUS_GRPC_ADDRESS": f"127.0.0.1:{port}",
        "ISTHMUS_TRACE_RATIO": "0",
    }


def _identity(bench: Path, node: str) -> str:
    return str(bench / "run" / node / "identity" / "live")


def _row(name: str, workload: str, listen: tuple[str, int]) -> dict[str, Any]:
    ports = [{"name": listen[0], "address": "127.0.0.1", "port": listen[1], "protocol": "grpc"}]
    return {"name": name, "zone": "private", "workload": workload, "node": name, "pid": None, "listens": ports}


def _token(bench: Path) -> str:
    """An inner token that payments may present, with the right to read orders, and its issuer's key in jwk.json."""
    key = ec.generate_private_key(ec.SECP256R1())
    jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
    (bench / "jwk.json").write_text(json.dumps({**jwk, "kid": "k1", "alg": "ES256", "use": "sig"}))
    now = int(time.time())
    claims: dict[str, Any] = {"iss": "https://localhost", "aud": "isthmus-core", "sub": "shop", "client_id": "shop"}
    claims |= {"iat": now, "exp": now + 3600, "jti": "1", "scope": "orders.read", "origin": "1", "origin_iat": now}
    claims["act"] = {"sub": "spiffe://isthmus.internal/private/payments"}
    return jwt.encode(claims, key, "ES256", {"kid": "k1", "typ": "inner+jwt"})
