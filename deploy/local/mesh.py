"""The mesh as an object: start it, break it on purpose, stop it."""

import asyncio
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from signal import SIGKILL
from types import TracebackType
from typing import IO, Self

import grpc

from deploy.local import (
    backup,
    door,
    gateway_fallback,
    links,
    postgres,
    preflight,
    replication,
    small_disk,
    table,
    topology,
)
from deploy.local.door import Door
from deploy.local.failover import Failover
from deploy.local.faults import Faults
from deploy.local.kafka import broker
from deploy.local.networks import Networks
from deploy.local.settings import Home, LauncherSettings
from deploy.local.supervisor import Child, Supervisor
from deploy.local.table import Row
from deploy.local.topology import Topology, url


class LocalMesh:
    """A whole mesh, or with `only` the named processes and all that they depend on, on this machine.

    `only` takes process names or workloads. Every other value not given comes from the environment (ISTHMUS_*).
    """

    def __init__(
        self,
        home: Path | None = None,
        port_base: int | None = None,
        edge_nodes: int | None = None,
        kafka_brokers: int | None = None,
        *,
        only: Iterable[str] = (),
        on_change: Callable[[Child], None] = lambda child: None,
    ) -> None:
        given = {"home": home, "port_base": port_base, "edge_nodes": edge_nodes, "kafka_brokers": kafka_brokers}
        self.settings = LauncherSettings(**{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]
        self.home = self.settings.layout
        self._table = table.build(self.settings)
        self.rows = _select(self._table, frozenset(only))
        self.swept: tuple[str, ...] = ()
        self._on_change = on_change
        self._supervisor = Supervisor(self.home, self.rows, self._changed)
        self._networks = Networks(self.settings.port_base) if self.settings.zone_networks else None
        self._faults = Faults(self._supervisor, self.home, self.settings.backup, self._networks)
        self._door = Door(door.path(self.home), self._faults.handle)
        gateways = [row.process for row in self.rows if row.process.workload.endswith("-gateway")]
        self._fallbacks = [gateway_fallback.fallback(self.home, gateway) for gateway in gateways]
        self._lock: IO[str] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Check, sweep, start; returns when every process is ready.

        Raises:
            LauncherError: see errors.py; nothing is left running.
        """
        self._lock = preflight.open_home(self.home)
        try:
            preflight.check_disk(self.settings)
            preflight.check_networks(self.settings)
            backup.check(self.settings)
            if not self.settings.kafka_bootstrap:
                broker.check_size(self.home, self.settings.kafka_brokers)
            await asyncio.to_thread(preflight.check_tools, self.rows)
            self.swept = await asyncio.to_thread(preflight.sweep, self.home, self.rows)
            await asyncio.to_thread(small_disk.recover, self.home)
            preflight.check_ports(self.rows)
            if self._networks:
                await asyncio.to_thread(self._networks.up)
            self._write_topology()
            await self._door.open()
            for fallback in self._fallbacks:
                await fallback.start()
            await self._supervisor.start()
        except BaseException:
            await self._close()
            self._release()
            raise
        for row in self.rows:
            if row.process.listen("raft"):
                self._tasks.append(asyncio.create_task(broker.follow_identity(self.home, row.process)))
        waited_for = self._supervisor.children.keys() & {*postgres.NODES, backup.WORKLOAD}
        if len(waited_for) > 1:
            failover = Failover(self.home, self._supervisor, frozenset(waited_for))
            self._tasks.append(asyncio.create_task(failover.run(), name="failover"))
        if self.settings.backup and backup.WORKLOAD in self._supervisor.children:
            every, nodes = timedelta(hours=self.settings.backup_every_h), replication.nodes(self.home)
            copying = backup.Copying(self.home, self.settings.backup, nodes, every)
            self._tasks.append(asyncio.create_task(copying.run(), name="copying"))

    async def stop(self) -> None:
        """Drain and stop everything. Safe to call twice."""
        if self._lock is None:
            return
        for task in self._tasks:
            task.cancel()
        await self._close()
        await self._faults.close()
        await self._supervisor.stop()
        self._release()

    async def _close(self) -> None:
        await self._door.close()
        for fallback in self._fallbacks:
            await fallback.stop(0)

    def process(self, name: str) -> Child:
        """The process at run time: `.pid`, `.state`, `.restarts`."""
        return self._supervisor.children[name]

    @property
    def processes(self) -> dict[str, Child]:
        return self._supervisor.children

    def kill(self, name: str, signal: int = SIGKILL) -> int:
        return self._supervisor.kill(name, signal)

    async def suspend(self, name: str) -> None:
        await self._supervisor.suspend(name)

    async def resume(self, name: str) -> None:
        await self._supervisor.resume(name)

    async def restart(self, name: str) -> None:
        await self._supervisor.restart(name)

    async def wait_ready(self, name: str, deadline_s: float = 60.0) -> None:
        await self._supervisor.wait_ready(name, deadline_s)

    @property
    def urls(self) -> dict[str, str]:
        return urls(self.home, table.topology(self.settings, self._table, {}))

    @property
    def database_url(self) -> str:
        """SQLAlchemy's URL of the private zone's database."""
        return self.settings.database_url or postgres.url(self.home, nodes=replication.nodes(self.home))

    @property
    def kafka_bootstrap(self) -> str:
        if self.settings.kafka_bootstrap:
            return self.settings.kafka_bootstrap
        return ",".join(self.brokers.values())

    @property
    def brokers(self) -> dict[str, str]:
        """The brokers of our own, by process name: where each serves the public zone."""
        own = (row.process for row in self.rows if row.process.listen("raft"))
        return {one.name: str(one.listen("kafka")) for one in own}

    @property
    def operator_identity(self) -> Path:
        """Directory with the operator's certificate, key and bundle."""
        return self.home.identity("operator")

    def operator_credentials(self) -> grpc.ChannelCredentials:
        """mTLS as spiffe://<trust domain>/private/operator."""
        files = (self.operator_identity / name for name in ("bundle.pem", "key.pem", "svid.pem"))
        return grpc.ssl_channel_credentials(*(file.read_bytes() for file in files))

    def _changed(self, child: Child) -> None:
        self._write_topology()
        self._on_change(child)

    def _write_topology(self) -> None:
        pids, children = self._supervisor.pids(), self._supervisor.children
        known = tuple(row for row in self.rows if not row.spare or children[row.name].wanted.is_set())
        processes = table.topology(self.settings, known, pids)
        if any(row.name == links.NAME for row in self.rows):
            topology.write(self.home.public_topology, table.public_view(processes))
        topology.write(self.home.topology, processes)

    def _release(self) -> None:
        if self._lock:
            self._write_topology()
            if self._networks:
                self._networks.down()
            self._lock.close()
            self._lock = None


def urls(home: Home, table: Topology) -> dict[str, str]:
    """Where a user finds what."""
    edge, core = (table.process(f"{name}-gateway").listen("https") for name in ("edge", "core"))
    assert edge is not None
    assert core is not None
    return {
        "edge_gateway": url(edge.address, edge.port),
        "core_gateway": url(core.address, core.port),
        "public_root_certificate": (home.root / "ca" / "public" / "root.pem").as_uri(),
    }


def _select(rows: tuple[Row, ...], only: frozenset[str]) -> tuple[Row, ...]:
    if not only:
        return rows
    by_name = {row.name: row for row in rows}
    chosen = {row.name for row in rows if row.name in only or row.process.workload in only}
    unknown = only - chosen - {row.process.workload for row in rows}
    assert not unknown, f"no such process or workload: {sorted(unknown)}"
    waiting = sorted(chosen)
    while waiting:
        for name in by_name[waiting.pop()].after:
            if name not in chosen:
                chosen.add(name)
                waiting.append(name)
    # The operator's identity comes with the private zone's authority.
    return tuple(row for row in rows if row.name in chosen or not row.command)
