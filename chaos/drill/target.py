"""The mesh that a drill acts on: found by its home, reached by its doors, its own word on how it is."""

import asyncio
import math
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isthmus.control.v1 import control_pb2 as pb

from chaos.drill.errors import DrillRefused, MeshUnwell
from deploy.local import door, links, overriding, processes, topology
from deploy.local.errors import NotRunning
from deploy.local.health import NotReady, probe
from deploy.local.kafka import broker
from deploy.local.mesh import urls
from deploy.local.settings import Home, LauncherSettings
from deploy.local.topology import Process, Topology

# Not a door but the control planes, which lay faults over the contract.
OVERRIDES = "overrides"


@dataclass(frozen=True)
class Target:
    """A running mesh. Everything about it is read anew when it is asked for."""

    settings: LauncherSettings

    @property
    def home(self) -> Home:
        return self.settings.layout

    @property
    def table(self) -> Topology:
        return topology.read(self.home.topology)

    @property
    def urls(self) -> dict[str, str]:
        return urls(self.settings)

    @property
    def nodes(self) -> dict[str, str]:
        """Every process that runs or should run, with its workload."""
        return {one.name: one.workload for one in self._processes()}

    @property
    def kafka_bootstrap(self) -> str:
        own = ",".join(str(listen) for one in self.table.of(broker.WORKLOAD) if (listen := one.listen("kafka")))
        return self.settings.kafka_bootstrap or own

    @property
    def kafka_identity(self) -> Path:
        """The brokers' own, which may read and change everything."""
        return self.home.identity(self.table.of(broker.WORKLOAD)[0].name)

    def of(self, workload: str) -> list[str]:
        return [name for name, its in self.nodes.items() if its == workload]

    @property
    def spares(self) -> list[str]:
        """Nodes that do not run and can be added."""
        found: list[str] = self.ask(do="active")["spares"]
        return found

    @property
    def links(self) -> list[str]:
        """The links that can be disturbed: none where the mesh was started without."""
        if links.NAME not in self.nodes:
            return []
        found: list[str] = door.call(door.path(self.home, links.NAME), do="active")["links"]
        return found

    def ask(self, at: str = door.LAUNCHER, **request: Any) -> dict[str, Any]:
        """
        Raises:
            NotRunning: the mesh is gone.
            Refused: the door said no, or LauncherError: the control plane did.
        """
        if at == OVERRIDES:
            return self._lay(**request)
        return door.call(door.path(self.home, at), **request)

    def heal(self, at: str, key: str) -> None:
        """Undo one fault. A mesh that is gone has nothing left to heal."""
        try:
            if at == OVERRIDES:
                self._lift(key)
                return
            self.ask(at, do="heal", lease=key)
        except NotRunning:
            return

    async def unwell(self, names: Collection[str] | None = None) -> dict[str, str]:
        """Every process, or of those named, that does not run or is not ready, with the reason."""

        async def look(process: Process) -> str:
            if processes.read_pid(self.home, process.name) is None:
                return f"{process.name} does not run"
            try:
                await probe(self.home, process)()
            except NotReady as error:
                return f"{process.name}: {error}"
            return ""

        looked_at = [one for one in self._processes() if names is None or one.name in names]
        reasons = await asyncio.gather(*map(look, looked_at))
        return {one.name: reason for one, reason in zip(looked_at, reasons, strict=True) if reason}

    async def require_well(self, within_s: float = 0.0, names: Collection[str] | None = None) -> None:
        """
        Raises:
            NotRunning: no mesh here.
            MeshUnwell: it did not become well in time, and why.
        """
        loop = asyncio.get_running_loop()
        ends = loop.time() + within_s
        while wrong := await self.unwell(names):
            if loop.time() >= ends:
                raise MeshUnwell(f"The mesh is not well: {'; '.join(wrong.values())[:300]}", "See `isthmus check`")
            await asyncio.sleep(0.5)

    def _lay(
        self, method: str, ttl_s: float, percent: int, delay_ms: int, abort: str, record: str, lease: str
    ) -> dict[str, Any]:
        """A fault as `isthmus override fault` lays it. The lease's key tells by its end which method it is of."""
        zone, path = overriding.method(method)
        mandate = pb.Mandate(life_s=math.ceil(ttl_s), record=record)
        request = pb.InjectFaultRequest(method=path, percent=percent, delay_ms=delay_ms, abort=abort, mandate=mandate)
        asyncio.run(overriding.inject(self.home, zone, request))
        return {"lease": lease}

    def _lift(self, key: str) -> None:
        zone, path = overriding.method(key.partition(" ")[2])
        asyncio.run(overriding.clear(self.home, zone, path))

    def _processes(self) -> list[Process]:
        return [one for one in self.table.processes if one.runs]


def find(settings: LauncherSettings) -> Target:
    """
    Raises:
        NotRunning: nobody is behind the door of this home.
        DrillRefused: the ports of the settings are not those of the mesh that runs here.
    """
    target = Target(settings)
    target.ask(do="active")
    listen = target.table.process("edge-gateway").listen("https")
    if listen is None or listen.port != settings.port_base:
        remedy = "Set ISTHMUS_PORT_BASE as it was when the mesh was started"
        raise DrillRefused(f"The mesh in {target.home.root} does not listen on {settings.port_base}", remedy)
    return target


def new_key(of: str = "") -> str:
    """A name for a fault. `of`: the method that it is of, where it is healed by that."""
    return f"drill-{uuid.uuid4().hex} {of}".rstrip()
