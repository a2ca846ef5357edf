"""What the demonstration breaks while traffic runs: three in ten edge nodes, then Kafka."""

import asyncio
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from signal import SIGKILL

from chaos.load.pace import Pace
from deploy.local.mesh import LocalMesh

KILLED_SHARE = 0.3
KILL_AT = 1 / 3
KAFKA_AWAY_AT = 1 / 2
KAFKA_AWAY_S = 15.0
BACK_WITHIN_S = 120.0
POLL_S = 0.1


@dataclass
class Broken:
    """What was broken, and what came back of it."""

    killed: list[str] = field(default_factory=list)
    back: list[str] = field(default_factory=list)
    kafka_outages: int = 0
    kafka_outage_seconds: float = 0.0


def edge_nodes(mesh: LocalMesh) -> list[str]:
    return [name for name, child in mesh.processes.items() if child.row.process.workload == "edge"]


def nodes_to_kill(nodes: int) -> int:
    return math.ceil(KILLED_SHARE * nodes)


class Faults:
    """Breaks the mesh at fixed shares of the traffic. `seed` chooses the nodes, `say` tells whoever watches."""

    def __init__(self, mesh: LocalMesh, pace: Pace, seed: int, say: Callable[[str], None]) -> None:
        self.broken = Broken()
        self._mesh = mesh
        self._pace = pace
        self._seed = seed
        self._say = say

    async def run(self) -> None:
        """Returns when everything that was broken is back, or BACK_WITHIN_S later."""
        await asyncio.gather(self._kill_edge_nodes(), self._take_kafka_away())

    async def _kill_edge_nodes(self) -> None:
        await self._pace.reached(KILL_AT)
        nodes = edge_nodes(self._mesh)
        chosen = sorted(random.Random(self._seed).sample(nodes, nodes_to_kill(len(nodes))))  # noqa: S311 (no secret)
        pids = {name: self._mesh.kill(name, SIGKILL) for name in chosen}
        self.broken.killed = chosen
        self._say(f"SIGKILL to {', '.join(chosen)}")
        ends = time.monotonic() + BACK_WITHIN_S
        while time.monotonic() < ends and len(self.broken.back) < len(chosen):
            await asyncio.sleep(POLL_S)
            for name in chosen:
                child = self._mesh.process(name)
                if name not in self.broken.back and child.ready.is_set() and child.pid not in (None, pids[name]):
                    self.broken.back.append(name)
                    self._say(f"{name} is back")

    async def _take_kafka_away(self) -> None:
        await self._pace.reached(KAFKA_AWAY_AT)
        brokers = list(self._mesh.brokers)
        if not brokers:
            self._say("Kafka is not ours to stop: no outage")
            return
        self._say("Kafka goes away")
        await asyncio.gather(*map(self._mesh.suspend, brokers))
        gone = time.monotonic()
        try:
            await asyncio.sleep(KAFKA_AWAY_S)
        finally:
            await asyncio.gather(*map(self._mesh.resume, brokers))
        await asyncio.gather(*(self._mesh.wait_ready(name, BACK_WITHIN_S) for name in brokers))
        self.broken.kafka_outages = 1
        self.broken.kafka_outage_seconds = time.monotonic() - gone
        self._say(f"Kafka is back after {self.broken.kafka_outage_seconds:.1f} s")
