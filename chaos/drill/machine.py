"""The backend for a mesh on this machine: the doors of its launcher and of its links, and its control planes."""

import asyncio
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from isthmus.control.v1 import control_pb2 as pb

from deploy.local import door, links, overriding, processes, topology
from deploy.local.errors import NotRunning
from deploy.local.health import NotReady, probe
from deploy.local.settings import Home
from deploy.local.topology import Process

# Not a door but the control planes, which lay faults over the contract.
OVERRIDES = "overrides"


@dataclass(frozen=True)
class Machine:
    home: Home

    @property
    def nodes(self) -> dict[str, str]:
        return {one.name: one.workload for one in self._processes()}

    @property
    def links(self) -> list[str]:
        """Those that the mesh was started with: through proxies, and the cable between the zones' own networks."""
        found: list[str] = self.ask(do="active")["links"]
        if links.NAME in self.nodes:
            found = found + self.ask(links.NAME, do="active")["links"]
        return found

    @property
    def spares(self) -> list[str]:
        found: list[str] = self.ask(do="active")["spares"]
        return found

    def ask(self, at: str = door.LAUNCHER, **request: Any) -> dict[str, Any]:
        if at == OVERRIDES:
            return self._lay(**request)
        return door.call(door.path(self.home, at), **request)

    def heal(self, at: str, key: str) -> None:
        try:
            if at == OVERRIDES:
                self._lift(key)
                return
            self.ask(at, do="heal", lease=key)
        except NotRunning:
            return

    async def unwell(self, names: Collection[str] | None = None) -> dict[str, str]:
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
        return [one for one in topology.read(self.home.topology).processes if one.runs]
