"""What each group of data planes of a zone is told, from the contract, the endpoints and their health."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

# Parsing resolves the types inside an Any only when their module has been imported.
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.access_loggers.filters.cel.v3 import cel_pb2 as _cel  # noqa: F401
from envoy.extensions.access_loggers.stream.v3 import stream_pb2 as _stream  # noqa: F401
from envoy.extensions.filters.http.buffer.v3 import buffer_pb2 as _buffer  # noqa: F401
from envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2 as _ext_authz  # noqa: F401
from envoy.extensions.filters.http.fault.v3 import fault_pb2 as _fault  # noqa: F401
from envoy.extensions.filters.http.grpc_json_transcoder.v3 import transcoder_pb2 as _transcoder  # noqa: F401
from envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2 as _header_mutation  # noqa: F401
from envoy.extensions.filters.http.header_to_metadata.v3 import header_to_metadata_pb2 as _metadata  # noqa: F401
from envoy.extensions.filters.http.health_check.v3 import health_check_pb2 as _health_check  # noqa: F401
from envoy.extensions.filters.http.json_to_metadata.v3 import json_to_metadata_pb2 as _json_to_metadata  # noqa: F401
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2 as _jwt_authn  # noqa: F401
from envoy.extensions.filters.http.local_ratelimit.v3 import local_rate_limit_pb2 as _local_ratelimit  # noqa: F401
from envoy.extensions.filters.http.lua.v3 import lua_pb2 as _lua  # noqa: F401
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as _rbac  # noqa: F401
from envoy.extensions.filters.http.router.v3 import router_pb2 as _router  # noqa: F401
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as _manager,  # noqa: F401
)
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2 as _previous_hosts  # noqa: F401
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2 as _tls  # noqa: F401
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2 as _options  # noqa: F401
from google.protobuf.json_format import ParseDict, ParseError

from mesh.control.health import State
from mesh.control.history import Configuration
from mesh.control.registry import Endpoint
from mesh.control.resources import clusters, endpoints, listeners, routes
from mesh.control.resources.view import CORE_GATEWAY, EDGE_GATEWAY, OAUTH, View
from mesh.control.snapshot import CLUSTER, ENDPOINTS, LISTENER, ROUTES, Resource, Resources, Snapshot, pack

# All xds:/// clients of a zone.
GRPC: Final = "grpc"
_EDGE: Final = "edge"
_KINDS: Final = {
    CLUSTER: cluster_pb2.Cluster,
    LISTENER: listener_pb2.Listener,
    ROUTES: route_pb2.RouteConfiguration,
}

StateOf = Callable[[str], State]


def gateway(zone: str) -> str:
    """The gateway, and so the group, of a zone."""
    return EDGE_GATEWAY if zone == "public" else CORE_GATEWAY


def configuration(view: View, group: str) -> Configuration:
    """Clusters, listeners and routes of one group."""
    builders = {EDGE_GATEWAY: _edge_gateway, CORE_GATEWAY: _core_gateway, GRPC: _grpc}
    found = builders[group](view)
    return {kind: {each["name"]: each for each in resources} for kind, resources in found.items()}


def packed(source: Configuration) -> Mapping[str, Resources]:
    """The same, checked against xDS's schema and packed. Raises ValueError where it does not fit."""
    return {
        kind: pack({name: _parsed(kind, name, resource) for name, resource in found.items()}, found)
        for kind, found in source.items()
    }


def _parsed(kind: str, name: str, resource: dict[str, Any]) -> Any:
    try:
        return ParseDict(resource, _KINDS[kind]())
    except ParseError as error:
        raise ValueError(f"{name} is no {kind.rpartition('.')[2]}: {error}") from error


class Assignments:
    """The endpoints of clusters as resources. What has not changed since the last time is not made again."""

    def __init__(self) -> None:
        # By cluster and sub-zone.
        self._made: dict[tuple[str, str], tuple[object, Resource]] = {}

    def of(self, view: View, names: Iterable[str], state: StateOf, near: str = "") -> Resources:
        """As they are told to data planes of the sub-zone `near`."""
        found = {}
        for name in sorted(names):
            endpoints = _behind(view, name)
            split = view.overrides.split(_BEHIND.get(name, (name, ""))[0])
            key = (endpoints, tuple(state(each.node) for each in endpoints), split)
            made = self._made.get((name, near))
            if made is None or made[0] != key:
                made = self._made[name, near] = (key, pack({name: assignment(view, name, state, near)})[name])
            found[name] = made[1]
        return found


def with_endpoints(
    view: View,
    resources: Mapping[str, Resources],
    state: StateOf,
    known: Assignments | None = None,
    also: Iterable[str] = (),
) -> Snapshot:
    """The snapshot of a configuration and the endpoints of now: one assignment for each cluster and each sub-zone.

    also: clusters that this configuration has not, and that the group may have to go back to.
    """
    assignments, names = known or Assignments(), {*resources[CLUSTER], *also}
    snapshot = Snapshot.of({**resources, ENDPOINTS: assignments.of(view, names, state)})
    return snapshot.with_near({near: assignments.of(view, names, state, near) for near in view.sub_zones})


def assignment(view: View, cluster: str, state: StateOf, near: str = "") -> Any:
    """The ClusterLoadAssignment of one cluster, as data planes of the sub-zone `near` are told."""
    split = view.overrides.split(_BEHIND.get(cluster, (cluster, ""))[0])
    return endpoints.assignment(cluster, _behind(view, cluster), state, split, near, view.near_nodes_min)


_BEHIND: Final = {
    clusters.EDGE_HTTP: (_EDGE, "http"),
    clusters.OAUTH_HTTP: (OAUTH, "http"),
    CORE_GATEWAY: (CORE_GATEWAY, "https"),
}


def _behind(view: View, cluster: str) -> tuple[Endpoint, ...]:
    """The endpoints of a cluster: of the view's own zone, and for the gate into the private one, of that."""
    workload, listen = _BEHIND.get(cluster, (cluster, "grpc"))
    zone = "private" if cluster == CORE_GATEWAY else view.zone
    return tuple(each for each in view.of(workload, listen) if each.zone == zone)


def _edge_gateway(view: View) -> dict[str, list[dict[str, Any]]]:
    budget = _retry_budget(view, _EDGE)
    peer = view.spiffe_id("public", _EDGE)
    return {
        CLUSTER: [
            # Against HTTP/1.1 it took 5% less of the gateway's time, and a node that comes back costs one handshake.
            clusters.http(view, EDGE_GATEWAY, clusters.EDGE_HTTP, peer, http2=True, budget_percent=budget),
            clusters.core_gateway(view, EDGE_GATEWAY),
        ],
        LISTENER: [listeners.edge(view, listen) for listen in view.of(EDGE_GATEWAY, "https")],
        ROUTES: [routes.edge(view)],
    }


def _core_gateway(view: View) -> dict[str, list[dict[str, Any]]]:
    services = [
        clusters.http(
            view,
            CORE_GATEWAY,
            workload,
            view.spiffe_id("private", workload),
            http2=True,
            budget_percent=_retry_budget(view, workload),
        )
        for workload in view.grpc_workloads()
    ]
    pages = clusters.http(
        view,
        CORE_GATEWAY,
        clusters.OAUTH_HTTP,
        view.spiffe_id("private", OAUTH),
        http2=False,
        budget_percent=clusters.UNREACHED_BUDGET,
    )
    return {
        CLUSTER: [*services, pages],
        LISTENER: [listeners.core(view, listen) for listen in view.of(CORE_GATEWAY, "https")],
        ROUTES: [routes.core(view)],
    }


def _grpc(view: View) -> dict[str, list[dict[str, Any]]]:
    workloads = view.grpc_workloads()
    return {
        CLUSTER: [clusters.grpc(view, workload) for workload in workloads],
        LISTENER: [listeners.grpc(workload) for workload in workloads],
        ROUTES: [routes.grpc(view, workload) for workload in workloads],
    }


def _retry_budget(view: View, workload: str) -> int:
    """Percent of live requests: the largest that a method of the workload grants."""
    methods = [method for service in view.contract.of_workload(workload) for method in service.methods]
    return max((method.retry_budget_percent for method in methods), default=0)
