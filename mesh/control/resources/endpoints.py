"""Endpoints with the health that the control plane itself has seen."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from envoy.config.core.v3 import health_check_pb2
from envoy.config.endpoint.v3 import endpoint_pb2

from mesh.control.health import State
from mesh.control.overrides import Split
from mesh.control.registry import Endpoint

_STATUS: Final = {
    State.UNKNOWN: health_check_pb2.UNKNOWN,
    State.HEALTHY: health_check_pb2.HEALTHY,
    State.DRAINING: health_check_pb2.DRAINING,
    State.UNHEALTHY: health_check_pb2.UNHEALTHY,
}


def assignment(
    name: str, endpoints: Sequence[Endpoint], state: Callable[[str], State], split: Split | None = None
) -> Any:
    """The ClusterLoadAssignment of one cluster. Nodes of a split stand in a locality of their own, with their share.

    Endpoints not probed yet take calls only where no other is healthy. Where none is left at all, the probes are
    doubted rather than the whole workload: everybody is offered but those that say themselves that they drain.
    """
    states = {endpoint: state(endpoint.node) for endpoint in endpoints}
    found = set(states.values())
    shown: dict[Endpoint, State]
    if State.HEALTHY in found:
        shown = {each: State.UNHEALTHY if seen is State.UNKNOWN else seen for each, seen in states.items()}
    elif State.UNKNOWN in found:
        shown = states
    else:
        shown = {each: State.UNKNOWN if seen is State.UNHEALTHY else seen for each, seen in states.items()}
    message = endpoint_pb2.ClusterLoadAssignment(cluster_name=name)
    if not endpoints:
        return message
    apart = frozenset(split.nodes) if split is not None else frozenset()
    canaries = [each for each in sorted(endpoints) if each.node in apart]
    others = [each for each in sorted(endpoints) if each.node not in apart]
    if split is None or not canaries or not others:
        _add(message, sorted(endpoints), shown, "", 1)
    else:
        _add(message, others, shown, "", 100 - split.percent)
        _add(message, canaries, shown, "canary", split.percent)
    return message


def _add(
    message: Any, endpoints: Sequence[Endpoint], shown: Mapping[Endpoint, State], sub_zone: str, share: int
) -> None:
    zone = endpoints[0].zone
    place = {"region": zone, "zone": zone, "sub_zone": sub_zone}
    locality = message.endpoints.add(locality=place, load_balancing_weight={"value": share})
    for endpoint in endpoints:
        socket = {"socket_address": {"address": endpoint.address, "port_value": endpoint.port}}
        locality.lb_endpoints.add(endpoint={"address": socket}, health_status=_STATUS[shown[endpoint]])
