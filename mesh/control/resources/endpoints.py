"""Endpoints with the health that the control plane itself has seen."""

from collections import defaultdict
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

_USABLE: Final = (State.HEALTHY, State.UNKNOWN)


def assignment(
    name: str,
    endpoints: Sequence[Endpoint],
    state: Callable[[str], State],
    split: Split | None = None,
    near: str = "",
    near_min: int = 1,
) -> Any:
    """The ClusterLoadAssignment of one cluster, for data planes of the sub-zone `near`.

    Endpoints of that sub-zone come first, as long as `near_min` of them can be called, and all others when nobody of
    those is left. Nodes of a split stand in a locality of their own, with their share; as long as it lasts, near and
    far are the same.

    Endpoints not probed yet take calls only where no other is healthy. Where none is left at all, the probes are
    doubted rather than the whole workload: everybody is offered but those that say themselves that they drain.
    """
    shown = _shown({endpoint: state(endpoint.node) for endpoint in endpoints})
    message = endpoint_pb2.ClusterLoadAssignment(cluster_name=name)
    apart = frozenset(split.nodes) if split is not None else frozenset()
    canaries = [each for each in sorted(endpoints) if each.node in apart]
    others = [each for each in sorted(endpoints) if each.node not in apart]
    if split is not None and canaries and others:
        _add(message, others, shown, "", 100 - split.percent)
        _add(message, canaries, shown, "canary", split.percent)
        return message
    by_place: defaultdict[str, list[Endpoint]] = defaultdict(list)
    for endpoint in sorted(endpoints):
        by_place[endpoint.sub_zone].append(endpoint)
    here = [each for each in by_place.get(near, ()) if near and shown[each] in _USABLE]
    # Priorities begin with 0 and leave none out, or gRPC refuses them.
    far = int(len(here) >= near_min)
    for place, found in sorted(by_place.items(), key=lambda each: (each[0] != near, each[0])):
        # gRPC keeps to a locality's weight however many of it are well, so it is given by those.
        usable = sum(shown[each] in _USABLE for each in found)
        weight = max(1, usable) if len(by_place) > 1 else 1
        _add(message, found, shown, place, weight, 0 if place == near else far)
    return message


def _shown(states: Mapping[Endpoint, State]) -> Mapping[Endpoint, State]:
    """What data planes are told of each."""
    found = set(states.values())
    if State.HEALTHY in found:
        return {each: State.UNHEALTHY if seen is State.UNKNOWN else seen for each, seen in states.items()}
    if State.UNKNOWN in found:
        return states
    return {each: State.UNKNOWN if seen is State.UNHEALTHY else seen for each, seen in states.items()}


def _add(
    message: Any,
    endpoints: Sequence[Endpoint],
    shown: Mapping[Endpoint, State],
    sub_zone: str,
    share: int,
    priority: int = 0,
) -> None:
    zone = endpoints[0].zone
    place = {"region": zone, "zone": zone, "sub_zone": sub_zone}
    locality = message.endpoints.add(locality=place, load_balancing_weight={"value": share}, priority=priority)
    for endpoint in endpoints:
        socket = {"socket_address": {"address": endpoint.address, "port_value": endpoint.port}}
        locality.lb_endpoints.add(endpoint={"address": socket}, health_status=_STATUS[shown[endpoint]])
