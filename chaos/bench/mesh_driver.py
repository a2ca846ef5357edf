"""The measuring side of the mesh's benchmarks: a process of its own, which writes its figures as JSON.

    python -m chaos.bench.mesh_driver calls|changes|fleet SETTINGS

SETTINGS is a JSON object; what each needs stands with its function.
"""

import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import grpc
import uvloop
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from isthmus.orders.v1 import orders_pb2, orders_pb2_grpc

from mesh.channel import Channels
from mesh.contract import load
from mesh.control.snapshot import CLUSTER, ENDPOINTS, LISTENER, ORDER, ROUTES
from mesh.errors import MeshError
from mesh.tls import Identity

ROUNDS: Final = 5
SECONDS: Final = 2.0
CALLERS: Final = 16
LATENCIES: Final = 1_000
CHANGES: Final = 40
FREEZES: Final = 8
# Of the fleet's services, those that one data plane calls.
CALLED: Final = 20
_REQUEST: Final = orders_pb2.GetOrderRequest(order_id="order-0001")
_WAIT_S: Final = 60.0


async def calls(settings: dict[str, Any]) -> dict[str, Any]:
    """settings: identity, token, and the addresses `bare` and `mesh`. Rates in calls/s, medians in ms."""
    metadata = (("authorization", f"Bearer {settings['token']}"),)
    async with contextlib.AsyncExitStack() as channels:
        stubs = {}
        for side in ("bare", "mesh"):
            channel = await channels.enter_async_context(_direct(settings["identity"], settings[side], "orders"))
            stubs[side] = orders_pb2_grpc.OrdersStub(channel)

        async def call(side: str) -> None:
            stub: Any = stubs[side]
            await stub.GetOrder(_REQUEST, timeout=5, metadata=metadata)

        async def rate(side: str, seconds: float) -> float:
            made, started = 0, time.perf_counter()

            async def caller() -> None:
                nonlocal made
                while time.perf_counter() - started < seconds:
                    await call(side)
                    made += 1

            await asyncio.gather(*(caller() for _ in range(CALLERS)))
            return made / (time.perf_counter() - started)

        async def median_ms(side: str) -> float:
            took = []
            for _ in range(LATENCIES):
                started = time.perf_counter()
                await call(side)
                took.append(time.perf_counter() - started)
            return statistics.median(took) * 1000

        for side in stubs:
            await rate(side, SECONDS / 2)
        rates = [{side: await rate(side, SECONDS) for side in stubs} for _ in range(ROUNDS)]
        medians = [{side: await median_ms(side) for side in stubs} for _ in range(ROUNDS)]
    return {"rates": rates, "medians": medians}


async def changes(settings: dict[str, Any]) -> dict[str, Any]:
    """settings: identity, token, topology (its path), processes (its rows), joining (a node's name), pid of that node.

    Milliseconds from a topology with the node to the first call that it answers; from its freezing to the last call
    that was sent to it.
    """
    channels = Channels(Identity(Path(settings["identity"])), load())
    stub: Any = orders_pb2_grpc.OrdersStub(channels.open("orders"))
    metadata = (("authorization", f"Bearer {settings['token']}"),)
    joining, topology = settings["joining"], Path(settings["topology"])

    async def node() -> str:
        return str((await stub.GetOrder(_REQUEST, timeout=2.5, metadata=metadata)).order.member_id)

    def publish(*, joined: bool) -> None:
        rows = [row for row in settings["processes"] if joined or row["name"] != joining]
        draft = topology.with_suffix(".new")
        draft.write_text(json.dumps({"trust_domain": "isthmus.internal", "processes": rows}))
        draft.replace(topology)

    async def spread(*, joined: bool) -> None:
        deadline = time.monotonic() + _WAIT_S
        while time.monotonic() < deadline:
            with contextlib.suppress(MeshError):
                seen = {await node() for _ in range(10)}
                if (joining in seen) is joined:
                    return
        raise TimeoutError(f"the calls do not {'reach' if joined else 'leave'} {joining}")

    joined_ms = []
    for _ in range(CHANGES):
        publish(joined=False)
        await spread(joined=False)
        started = time.perf_counter()
        publish(joined=True)
        while await node() != joining:
            pass
        joined_ms.append((time.perf_counter() - started) * 1000)
    moved_ms = []
    for _ in range(FREEZES):
        await spread(joined=True)
        moved_ms.append(await _frozen(node, settings["pid"]))
    await channels.close()
    return {"joined_ms": joined_ms, "moved_ms": moved_ms}


async def _frozen(node: Any, pid: int) -> float:
    """Freeze the process under a call each 5 ms; milliseconds until no more calls were sent to it."""
    last = 0.0

    async def call(started: float) -> None:
        nonlocal last
        try:
            await node()
        except MeshError:
            last = max(last, started)

    os.kill(pid, signal.SIGSTOP)
    try:
        stopped = time.perf_counter()
        sent = []
        while time.perf_counter() - stopped < 2.0:
            sent.append(asyncio.create_task(call(time.perf_counter())))
            await asyncio.sleep(0.005)
        # Whoever asked the frozen node has waited in vain by then.
        await asyncio.gather(*sent)
    finally:
        os.kill(pid, signal.SIGCONT)
    return max(0.0, (last - stopped) * 1000)


class _DataPlane:
    """One stream that asks for what a gRPC client of some services asks for, and acknowledges all."""

    def __init__(self, channel: grpc.aio.Channel, services: Sequence[str]) -> None:
        self._services = services
        self._channel = channel
        self._call: Any = None
        self.told: dict[str, str] = {}
        self.changed = asyncio.Event()

    async def run(self) -> None:
        self._call = ads_pb2_grpc.AggregatedDiscoveryServiceStub(self._channel).StreamAggregatedResources()
        for kind in (LISTENER, ROUTES, CLUSTER, ENDPOINTS):
            await self._ask(kind)
        async for answer in self._call:
            self.told[answer.type_url] = answer.version_info
            await self._ask(answer.type_url, answer.nonce, answer.version_info)
            self.changed.set()

    async def _ask(self, kind: str, nonce: str = "", version: str = "") -> None:
        request = discovery_pb2.DiscoveryRequest(
            type_url=kind, resource_names=self._services, response_nonce=nonce, version_info=version
        )
        request.node.id = f"plane-{id(self)}"
        await self._call.write(request)

    async def until(self, kind: str, before: str) -> None:
        while self.told.get(kind, before) == before:
            self.changed.clear()
            await self.changed.wait()


def fleet(settings: dict[str, Any]) -> dict[str, Any]:
    """settings: identity, address, command and environment of the server, services, planes.

    Seconds to full convergence, CPU seconds and resident KiB that the planes cost the control plane, and milliseconds
    until all know of one endpoint's health.
    """
    server = subprocess.Popen(settings["command"], stdin=subprocess.PIPE, env=os.environ | settings["environment"])
    try:
        return uvloop.run(_fleet(settings, server))
    finally:
        server.terminate()
        server.wait(20)


async def _fleet(settings: dict[str, Any], server: "subprocess.Popen[bytes]") -> dict[str, Any]:
    services, number = settings["services"], settings["planes"]
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(_direct(settings["identity"], settings["address"], "control-private"))
        await asyncio.wait_for(first.channel_ready(), _WAIT_S)
        cpu, memory = _cpu_s(server.pid), _resident_kib(server.pid)
        started = time.perf_counter()
        planes, tasks = [], []
        for plane in range(number):
            channel = _direct(settings["identity"], settings["address"], "control-private")
            names = {f"service-{(plane * 7 + step * 53) % services}" for step in range(CALLED - 1)} | {"service-0"}
            planes.append(_DataPlane(await stack.enter_async_context(channel), sorted(names)))
            tasks.append(asyncio.create_task(planes[-1].run()))
        async with asyncio.timeout(_WAIT_S * 5):
            await asyncio.gather(*(plane.until(kind, "") for plane in planes for kind in ORDER))
        took = {"converged_s": time.perf_counter() - started, "cpu_s": _cpu_s(server.pid) - cpu}
        took["resident_kib"] = _resident_kib(server.pid) - memory
        told = []
        for _ in range(ROUNDS):
            before = {plane: plane.told[ENDPOINTS] for plane in planes}
            changed = time.perf_counter()
            assert server.stdin is not None
            server.stdin.write(b"flip\n")
            server.stdin.flush()
            async with asyncio.timeout(_WAIT_S):
                await asyncio.gather(*(plane.until(ENDPOINTS, before[plane]) for plane in planes))
            told.append((time.perf_counter() - changed) * 1000)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return {**took, "resident_total_kib": memory, "told_ms": statistics.median(told)}


def _direct(identity: str, address: str, workload: str) -> grpc.aio.Channel:
    """A connection of its own."""
    options = (
        ("grpc.ssl_target_name_override", f"{workload}.private.isthmus.internal"),
        ("grpc.use_local_subchannel_pool", 1),
    )
    return grpc.aio.secure_channel(address, Identity(Path(identity)).channel_credentials(), options)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


if __name__ == "__main__":
    settings = json.loads(sys.argv[2])
    if sys.argv[1] == "fleet":
        print(json.dumps(fleet(settings)))
    else:
        print(json.dumps(uvloop.run({"calls": calls, "changes": changes}[sys.argv[1]](settings))))
