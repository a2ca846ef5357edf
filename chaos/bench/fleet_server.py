"""A control plane with a simulated fleet behind it: many services, many endpoints, and the real ADS over mTLS.

    python -m chaos.bench.fleet_server SERVICES ENDPOINTS_EACH STREAMS_MAX

Each line on standard input flips the health of one endpoint. Its cache, conversations and resources are the real ones;
only the services are no contract's.
"""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path

from envoy.service.discovery.v3 import ads_pb2_grpc
from isthmus.control.v1 import control_pb2_grpc

from mesh.contract import MethodPolicy
from mesh.control.ads import Ads
from mesh.control.cache import SnapshotCache
from mesh.control.compile import GRPC, Assignments, packed, with_endpoints
from mesh.control.health import State
from mesh.control.overrides import FILE, OverrideBook
from mesh.control.registry import Endpoint
from mesh.control.resources import clusters, listeners
from mesh.control.resources.view import View
from mesh.control.service import ControlService
from mesh.control.settings import ControlSettings
from mesh.control.snapshot import CLUSTER, LISTENER, ROUTES
from mesh.guard import ANY_OF_ZONE
from mesh.process import Process, start
from mesh.server import ServerBuilder


async def main(settings: ControlSettings, process: Process) -> None:
    services, each, streams_max = map(int, sys.argv[1:4])
    names = [f"service-{number}" for number in range(services)]
    endpoints = tuple(
        Endpoint(name, "grpc", f"{name}-{node}", "private", f"10.{node}.{number >> 8}.{number & 255}", 443)
        for number, name in enumerate(names)
        for node in range(each)
    )
    view = View("isthmus.internal", "private", process.contract, endpoints, "", "", Path())
    host = {"name": "all", "domains": ["*"]}
    source = {
        CLUSTER: {name: clusters.grpc(view, name) for name in names},
        LISTENER: {name: listeners.grpc(name) for name in names},
        ROUTES: {name: {"name": name, "virtual_hosts": [{**host, "routes": [_route(name)]}]} for name in names},
    }
    resources, known, bad = packed(source), Assignments(), set[str]()
    cache = SnapshotCache()

    def publish() -> None:
        def state(node: str) -> State:
            return State.UNHEALTHY if node in bad else State.HEALTHY

        cache.set(GRPC, with_endpoints(view, resources, state, known))

    publish()
    ads = Ads(
        cache, {}, GRPC, streams_max=streams_max, streams_per_workload_max=streams_max, known=lambda: {"orders": ()}
    )
    control = ControlService(ads.planes, cache.history, _Plan(settings))
    builder = (
        ServerBuilder(process)
        .add_infrastructure(ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server, ads, ANY_OF_ZONE)
        .add(control_pb2_grpc.add_ControlServicer_to_server, control)
    )

    def flip() -> None:
        if sys.stdin.readline():
            bad.symmetric_difference_update({endpoints[0].node})
            publish()

    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), flip)
    await process.serve(builder.build())


class _Plan:
    """Of a fleet to which nothing is done by hand."""

    def __init__(self, settings: ControlSettings) -> None:
        self.overrides = OverrideBook(settings.state_path / FILE, lambda: None)
        self.methods: Mapping[str, MethodPolicy] = {}

    def probed(self) -> list[tuple[Endpoint, State]]:
        return []

    def retry(self, group: str, configuration: str) -> None:
        """Nothing was ever refused."""


def _route(name: str) -> dict[str, object]:
    return {"match": {"prefix": ""}, "route": {"cluster": name}}


if __name__ == "__main__":
    start(main, ControlSettings)
