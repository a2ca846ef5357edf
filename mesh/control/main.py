"""Builds the control plane of one zone and runs it."""

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from envoy.service.discovery.v3 import ads_pb2_grpc
from isthmus.control.v1 import control_pb2_grpc
from opentelemetry.metrics import CallbackOptions, Observation

from mesh import telemetry
from mesh.contract import MethodPolicy
from mesh.control import capabilities
from mesh.control.ads import Ads
from mesh.control.cache import SnapshotCache
from mesh.control.compile import GRPC, Assignments, configuration, gateway, packed, with_endpoints
from mesh.control.health import Health, State
from mesh.control.history import Configuration, History
from mesh.control.overrides import FILE as OVERRIDES
from mesh.control.overrides import Fault, OverrideBook
from mesh.control.registry import Endpoint, Registry, asked
from mesh.control.resources.view import Patience, View
from mesh.control.service import ControlService
from mesh.control.settings import ControlSettings
from mesh.control.snapshot import CLUSTER, Resources, Snapshot, named
from mesh.control.status import REASON_CHARACTERS_MAX
from mesh.control.validation import EnvoyValidator
from mesh.guard import ANY_OF_ZONE
from mesh.logs import logger
from mesh.process import Process
from mesh.server import ServerBuilder

# Probes that come together make one snapshot, and no endpoint waits longer than this for it.
_COALESCE_S = 0.005


@dataclass(frozen=True, slots=True)
class _Configured:
    """What a group is told, less its endpoints."""

    source: Configuration
    resources: Mapping[str, Resources]


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
        # Clients do not wait until Envoy has judged what its gateway is to be told.
        self._groups = (GRPC, gateway(settings.zone))
        self._configured: dict[str, _Configured] = {}
        # Groups whose newest configuration must not be pushed.
        self._withheld: set[str] = set()
        self._assignments = Assignments()
        # Groups whose newest configuration is to be offered once more.
        self._retries: dict[str, str] = {}
        self._compiled_for: dict[str, tuple[tuple[Endpoint, ...], tuple[Fault, ...]]] = {}
        self.overrides = OverrideBook(settings.state_path / OVERRIDES, self._changed.set)
        self._validator = EnvoyValidator(settings.state_path / "validation", settings.identity_dir)
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
        self._restore()
        await self._publish()
        self._tasks = [
            asyncio.create_task(self._registry.watch(self._endpoints_changed), name="registry"),
            asyncio.create_task(self._follow(), name="planner"),
        ]

    async def stop(self, grace_s: float) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.health.stop(grace_s)

    def probed(self) -> list[tuple[Endpoint, State]]:
        """What the probes say of each node."""
        return [(each, self.health.state(each.node)) for each in self._probed()]

    @property
    def methods(self) -> Mapping[str, MethodPolicy]:
        """Those of the zone, by path."""
        found = self._process.contract.methods
        return {path: method for path, method in found.items() if method.zone == self._settings.zone}

    def retry(self, group: str, configuration: str) -> None:
        """Offer a group's newest configuration once more, though it was refused."""
        self._retries[group] = configuration
        self._changed.set()

    def _probed(self) -> Iterable[Endpoint]:
        return asked(self._registry.endpoints, self._settings.zone)

    def _endpoints_changed(self) -> None:
        self.health.watch(self._probed())
        self._changed.set()

    async def _follow(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.overrides.next_end_s()):
                    await self._changed.wait()
            await asyncio.sleep(_COALESCE_S)
            self._changed.clear()
            await self._publish()

    def _view(self) -> View:
        settings = self._settings
        return View(
            settings.trust_domain,
            settings.zone,
            self._process.contract,
            self._registry.endpoints,
            settings.issuer,
            settings.audience,
            settings.run_path,
            self.overrides.current,
            settings.near_nodes_min,
            Patience(settings.client_head_s, settings.client_request_s, settings.client_silence_s),
        )

    def _restore(self) -> None:
        """An earlier life's last good configuration, should what is compiled now be refused, here or out there."""
        view = self._view()
        for group in self._groups:
            good: Snapshot | None = None
            source = self._cache.history.good(group)
            if source is not None:
                try:
                    resources = packed(source)
                    good = with_endpoints(view, resources, self.health.state)
                    self._configured[group] = _Configured(source, resources)
                except (ValueError, KeyError) as error:
                    self._log.warning("last good configuration unreadable", group=group, reason=str(error))
            self._cache.restore(group, good)

    async def _publish(self) -> None:
        view = self._view()
        retries, self._retries = self._retries, {}
        for group in retries:
            # What was withheld is looked at again.
            self._compiled_for.pop(group, None)
        for group in self._groups:
            # Nodes that come, go or fall ill change endpoints only. All else follows from the gateway's own port and
            # the faults, and is compiled anew when those change: it takes longer than a new node may wait.
            compiled_for = (view.of(gateway(view.zone), "https"), view.overrides.faults)
            if self._compiled_for.get(group) != compiled_for:
                self._compiled_for[group] = compiled_for
                await self._configure(view, group)
            known = self._configured.get(group)
            if known is not None:
                good = self._cache.good(group)
                also = good.resources[CLUSTER] if good is not None else ()
                snapshot = with_endpoints(view, known.resources, self.health.state, self._assignments, also)
                self._cache.set(group, snapshot, known.source, outdated=group in self._withheld)
        for group, refused in retries.items():
            self._cache.retry(group, refused)

    async def _configure(self, view: View, group: str) -> None:
        """Compile what the group is to be told from now on.

        What must not be pushed is withheld: what is out there stays, with the endpoints of now, and a group without a
        snapshot is told nothing rather than half of it.
        """
        self._withheld.add(group)
        try:
            source = configuration(view, group)
        except ValueError as error:
            self._log.error("snapshot refused", group=group, reason=str(error))
            return
        name = named(source)
        try:
            resources = packed(source)
            reasons = capabilities.refusals(source, capabilities.GRPC if group == GRPC else capabilities.ENVOY)
            if not reasons and group != GRPC and not self._cache.history.knows_as_good(group, name):
                refusal = await self._validator.refusal(view, group)
                reasons = [refusal] if refusal else []
        except ValueError as error:
            reasons = [str(error)]
        if reasons:
            reason = "; ".join(reasons)[:REASON_CHARACTERS_MAX]
            self._log.error("snapshot refused", group=group, reason=reason)
            self._cache.history.withheld(group, name, reason, source)
            return
        self._withheld.discard(group)
        self._configured[group] = _Configured(source, resources)


def _measure(planner: Planner, cache: SnapshotCache, ads: Ads) -> None:
    """What Prometheus sees: endpoints by state, open streams, refused configurations."""

    def endpoints(_: CallbackOptions) -> list[Observation]:
        return [Observation(number, {"state": state.value}) for state, number in planner.health.count().items()]

    meter = telemetry.meter()
    meter.create_observable_gauge("control.endpoints", [endpoints])
    meter.create_observable_gauge("control.streams", [lambda _: [Observation(ads.open_streams)]])
    meter.create_observable_counter("control.rejections", [lambda _: [Observation(cache.rejected)]])


async def main(settings: ControlSettings, process: Process) -> None:
    registry = await Registry.wait(settings.topology_path, settings.zone, settings.topology_look_s)
    cache = SnapshotCache(history=History(settings.state_path / "configurations"))
    planner = Planner(settings, process, registry, cache)
    ads = Ads(
        cache,
        {gateway(settings.zone): gateway(settings.zone)},
        GRPC,
        streams_max=settings.streams_max,
        streams_per_workload_max=settings.streams_per_workload_max,
        known=registry.nodes,
        sub_zone=registry.sub_zone,
        name=settings.node,
    )
    _measure(planner, cache, ads)
    service = ControlService(ads.planes, cache.history, planner)
    builder = (
        ServerBuilder(process)
        .add_infrastructure(ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server, ads, ANY_OF_ZONE)
        .add(control_pb2_grpc.add_ControlServicer_to_server, service)
    )
    await process.serve(builder.build(), planner)
