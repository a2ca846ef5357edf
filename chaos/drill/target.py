"""The mesh that a drill acts on: found by its home, broken through its backend, its own word on how it is."""

import uuid
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from chaos.drill.backend import Backend
from chaos.drill.errors import DrillRefused
from chaos.drill.machine import OVERRIDES, Machine
from deploy.local import door, topology
from deploy.local.kafka import broker
from deploy.local.mesh import urls
from deploy.local.settings import Home, LauncherSettings
from deploy.local.topology import Topology

__all__ = ["OVERRIDES", "BackendSettings", "Target", "find", "new_key"]


class BackendSettings(BaseSettings):
    """Environment ISTHMUS_DRILL_*: where the mesh runs."""

    model_config = SettingsConfigDict(env_prefix="ISTHMUS_DRILL_", extra="ignore")

    backend: Literal["local", "kubernetes"] = "local"
    namespace: str = Field(default="isthmus", pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")


@dataclass(frozen=True)
class Target:
    """A running mesh. Everything about it is read anew when it is asked for."""

    settings: LauncherSettings

    @property
    def backend(self) -> Backend:
        where = BackendSettings()
        if where.backend == "kubernetes":
            # Only who drills there has the client.
            from chaos.drill.cluster import connect

            return connect(where.namespace)
        return Machine(self.home)

    @property
    def home(self) -> Home:
        return self.settings.layout

    @property
    def table(self) -> Topology:
        return topology.read(self.home.topology)

    @property
    def urls(self) -> dict[str, str]:
        return urls(self.home, self.table)

    @property
    def nodes(self) -> dict[str, str]:
        return self.backend.nodes

    def of(self, workload: str) -> list[str]:
        return [name for name, its in self.nodes.items() if its == workload]

    @property
    def spares(self) -> list[str]:
        return self.backend.spares

    @property
    def links(self) -> list[str]:
        return self.backend.links

    @property
    def kafka_bootstrap(self) -> str:
        own = ",".join(str(listen) for one in self.table.of(broker.WORKLOAD) if (listen := one.listen("kafka")))
        return self.settings.kafka_bootstrap or own

    @property
    def kafka_identity(self) -> Path:
        """The brokers' own, which may read and change everything."""
        return self.home.identity(self.table.of(broker.WORKLOAD)[0].name)

    def ask(self, at: str = door.LAUNCHER, **request: Any) -> dict[str, Any]:
        return self.backend.ask(at, **request)

    def heal(self, at: str, key: str) -> None:
        self.backend.heal(at, key)

    async def unwell(self, names: Collection[str] | None = None) -> dict[str, str]:
        return await self.backend.unwell(names)


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
