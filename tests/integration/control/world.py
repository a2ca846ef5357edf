"""A small mesh under test: real control planes, real gateways, stand-ins behind them, each a process."""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from isthmus.control.v1 import control_pb2 as pb

from deploy.local import envoy, overriding
from deploy.local.settings import REPOSITORY, Home
from deploy.local.topology import Listen, Process, Topology, write
from deploy.local.xds_bootstrap import write_xds_bootstrap
from mesh.environment import GRPC
from security.identity.topology import OPERATORS
from tests.integration.conftest import TRUST_DOMAIN, Identities
from tests.ports import free_port

UPSTREAM = "tests.integration.control.upstream"
DEADLINE_S = 60.0


async def eventually(holds: Callable[[], Awaitable[bool]], what: str, within_s: float = DEADLINE_S) -> float:
    """Seconds until `holds`; fails when it does not within the deadline."""
    started = time.monotonic()
    while not await holds():
        assert time.monotonic() - started < within_s, f"not within {within_s} s: {what}"
        await asyncio.sleep(0.02)
    return time.monotonic() - started


class World:
    """Processes by name. `topology` lists those that the control planes may know."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root)
        self.identities = Identities(root)
        self.processes: dict[str, Process] = {}
        self.running: dict[str, asyncio.subprocess.Process] = {}

    def add(self, name: str, workload: str, zone: str, *listens: str, sub_zone: str = "") -> Process:
        """A row of the topology with ports of its own."""
        protocols = {"grpc": "grpc", "ads": "grpc", "http": "https", "https": "https", "metrics": "https"}
        ports = tuple(Listen(listen, "127.0.0.1", free_port(), protocols[listen]) for listen in listens)
        process = Process(name, zone, workload, name, None, ports, sub_zone)
        self.processes[name] = process
        self.identities.issue(zone, workload, name)
        return process

    def publish(self, *without: str) -> None:
        """Write the topology, less some processes."""
        shown = (process for name, process in self.processes.items() if name not in without)
        write(self.home.topology, Topology(TRUST_DOMAIN, tuple(shown)))

    def address(self, name: str, listen: str) -> str:
        return str(self.processes[name].listen(listen))

    def environment(self, name: str) -> dict[str, str]:
        process = self.processes[name]
        control = self.address(f"control-{process.zone}", "ads")
        write_xds_bootstrap(self.home, process, control)
        addresses = {
            f"ISTHMUS_{'GRPC' if listen.name == 'ads' else listen.name.upper()}_ADDRESS": str(listen)
            for listen in process.listens
        }
        return {
            **os.environ,
            **GRPC,
            "PYTHONPATH": self.path,
            "ISTHMUS_HOME": str(self.home.root),
            "ISTHMUS_ZONE": process.zone,
            "ISTHMUS_WORKLOAD": process.workload,
            "ISTHMUS_NODE": name,
            "ISTHMUS_IDENTITY_DIR": str(self.home.identity(name)),
            "ISTHMUS_ISSUER": "https://issuer.test",
            "GRPC_XDS_BOOTSTRAP": str(self.home.run(name) / "xds-bootstrap.json"),
            **addresses,
        }

    @property
    def path(self) -> str:
        """Where the processes find their modules."""
        return f"{REPOSITORY}:{REPOSITORY / 'mesh' / 'generated'}"

    async def start(self, name: str, module: str = UPSTREAM, **environment: str) -> None:
        process = self.processes[name]
        if process.workload.endswith("-gateway"):
            control = self.address(f"control-{process.zone}", "ads")
            envoy.prepare(self.home, process, control, TRUST_DOMAIN)
            command: tuple[str, ...] = envoy.command(self.home, name)
        else:
            command = (sys.executable, "-m", module)
        log = (self.home.run(name) / "log").open("ab")
        self.running[name] = await asyncio.create_subprocess_exec(
            *command, env={**self.environment(name), **environment}, cwd=REPOSITORY, stdout=log, stderr=log
        )
        log.close()

    async def control(self, zone: str, **environment: str) -> None:
        self.identities.issue(zone, "operator", OPERATORS[zone].process)
        await self.start(f"control-{zone}", "mesh.control", **environment)

    async def fault(self, zone: str, method: str, *, life_s: int = 60, abort: str = "RESOURCE_EXHAUSTED") -> None:
        """Have every call of a method fail, as the operator."""
        mandate = pb.Mandate(life_s=life_s, record="0" * 32)
        request = pb.InjectFaultRequest(method=method, percent=100, abort=abort, mandate=mandate)
        await overriding.inject(self.home, zone, request)

    async def split(self, zone: str, workload: str, node: str, percent: int) -> None:
        """Give one node a share of its workload's calls, as the operator."""
        mandate = pb.Mandate(life_s=60, record="0" * 32)
        request = pb.SplitTrafficRequest(workload=workload, nodes=[node], percent=percent, mandate=mandate)
        await overriding.split(self.home, zone, request)

    async def clear(self, zone: str) -> None:
        """End all overrides of a zone, as the operator."""
        await overriding.clear(self.home, zone, "")

    def signal(self, name: str, number: int) -> None:
        self.running[name].send_signal(number)

    async def kill(self, name: str) -> None:
        process = self.running.pop(name)
        if process.returncode is None:
            process.kill()
        await process.wait()

    async def stop(self) -> None:
        for name in list(self.running):
            await self.kill(name)

    async def serving(self, name: str, listen: str) -> None:
        """Wait until the port takes connections."""
        found: Any = self.processes[name].listen(listen)

        async def connects() -> bool:
            try:
                _, writer = await asyncio.open_connection(found.address, found.port)
            except OSError:
                return False
            writer.close()
            return True

        await eventually(connects, f"{name} listens on {found}; {self.tail(name)}")

    def tail(self, name: str) -> str:
        path = self.home.run(name) / "log"
        return path.read_text()[-2000:] if path.exists() else ""
