"""Builds the control plane of one zone and runs it."""

import asyncio
from collections.abc import Iterable, Mapping

from envoy.service.discovery.v3 import ads_pb2_grpc
from opentelemetry.metrics import CallbackOptions, Observation

from mesh import telemetry
from mesh.control.ads import Ads
from mesh.control.cache import SnapshotCache
from mesh.control.compile import GRPC, configured, gateway, with_endpoints
from mesh.control.health import Health
from mesh.control.registry import Endpoint, Registry
from mesh.control.resources.view import View
from mesh.control.settings import ControlSettings
from mesh.control.snapshot import Resources, Snapshot
from mesh.logs import logger
from mesh.process import Process
from mesh.server import ServerBuilder

# Probes that come together make one snapshot, and no endpoint waits longer than this for it.
_COALESCE_S = 0.005


class Planner:
    """Keeps the cache in step with the registry and the probes."""

    def __init__(self, settings: ControlSettings, process: Process, registry: Registry, cache: SnapshotCache) -> None:
        self._settings = settings
        self._process = process
        self._registry = registry
        self._cache = cache
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._log = logger("control")
        self._groups = (gateway(settings.zone), GRPC)
        self._configured: dict[str, tuple[tuple[Endpoint, ...], Mapping[str, Resources]]] = {}
        self.health = Health(
            process.identity,
            settings.trust_domain,
            self._changed.set,
            interval_s=settings.probe_interval_s,
            timeout_s=settings.probe_timeout_s,
            probes_max=settings.probes_max,
        )

    async def start(self) -> None:
        """Returns when every endpoint has been asked once and the first snapshots stand."""
        await self.health.start()
        self.health.watch(self._probed())
        await self.health.settled(3 * self._settings.probe_timeout_s)
        self._publish()
        self._tasks = [
            asyncio.create_task(self._registry.watch(self._endpoints_changed), name="registry"),
            asyncio.create_task(self._follow(), name="planner"),
        ]

    async def stop(self, grace_s: float) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.health.stop(grace_s)

    def _probed(self) -> Iterable[Endpoint]:
        return [each for each in self._registry.endpoints if each.listen == "grpc" and each.zone == self._settings.zone]

    def _endpoints_changed(self) -> None:
        self.health.watch(self._probed())
        self._changed.set()

    async def _follow(self) -> None:
        while True:
            await self._changed.wait()
            await asyncio.sleep(_COALESCE_S)
            self._changed.clear()
            self._publish()

    def _publish(self) -> None:
        settings = self._settings
        view = View(
            settings.trust_domain,
            settings.zone,
            self._process.contract,
            self._registry.endpoints,
            settings.issuer,
            settings.audience,
            settings.run_path,
        )
        for group in self._groups:
            try:
                snapshot = self._compile(view, group)
            except ValueError as error:
                # What is out there stays; a group without a snapshot is told nothing rather than half of it.
                self._log.error("snapshot refused", group=group, reason=str(error))
                continue
            self._cache.set(group, snapshot)

    def _compile(self, view: View, group: str) -> Snapshot:
        # A probe changes endpoints only: the rest is compiled anew when the table of processes changes.
        known = self._configured.get(group)
        if known is None or known[0] != view.endpoints:
            known = self._configured[group] = (view.endpoints, configured(view, group))
        return with_endpoints(view, known[1], self.health.state)


def _measure(planner: Planner, cache: SnapshotCache, ads: Ads) -> None:
    """What Prometheus sees: endpoints by state, open streams, refused configurations."""

    def endpoints(_: CallbackOptions) -> list[Observation]:
        return [Observation(number, {"state": state.value}) for state, number in planner.health.count().items()]

    meter = telemetry.meter()
    meter.create_observable_gauge("control.endpoints", [endpoints])
    meter.create_observable_gauge("control.streams", [lambda _: [Observation(ads.open_streams)]])
    meter.create_observable_counter("control.rejections", [lambda _: [Observation(cache.rejected)]])


async def main(settings: ControlSettings, process: Process) -> None:
    registry = await Registry.wait(settings.topology_path, settings.zone, settings.topology_interval_s)
    cache = SnapshotCache()
    planner = Planner(settings, process, registry, cache)
    ads = Ads(
        cache,
        {gateway(settings.zone): gateway(settings.zone)},
        GRPC,
        streams_max=settings.streams_max,
        streams_per_workload_max=settings.streams_per_workload_max,
    )
    _measure(planner, cache, ads)
    data_planes = frozenset(each.workload for each in registry.endpoints if each.zone == settings.zone)
    builder = ServerBuilder(process).add_infrastructure(
        ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server, ads, data_planes
    )
    await process.serve(builder.build(), planner)
