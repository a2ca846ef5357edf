"""The path of a call, hop by hop, with the verdict of each: read off what is compiled, not told a second time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mesh.contract import Contract, MethodPolicy
from mesh.contract.model import EACH
from mesh.control.compile import GRPC, configuration
from mesh.control.registry import Endpoint
from mesh.control.resources.routes import JWT_FILTER, matching
from mesh.control.resources.view import CORE_GATEWAY, EDGE_GATEWAY, View
from mesh.control.snapshot import CLUSTER, LISTENER, ROUTES
from mesh.spiffe import SpiffeId

# Whoever has no certificate of the mesh.
OUTSIDE: Final = "outside"
# Told of a cluster, the nodes behind it and what the probes say of them; "" where nobody knows.
Health = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Hop:
    """One step. `allowed` is None where it depends on what the call itself holds."""

    at: str
    rule: str
    allowed: bool | None
    why: str


def hops(contract: Contract, origin: SpiffeId | None, method: MethodPolicy, health: Health) -> list[Hop]:
    """The steps of a call by `origin` (None: from outside), up to the first that refuses it."""
    found = []
    for hop in _hops(contract, origin, method, health):
        found.append(hop)
        if hop.allowed is False:
            break
    return found


def origin(contract: Contract, name: str) -> SpiffeId | None:
    """A caller by its workload or SPIFFE id; None for `outside`. Raises ValueError for a name that nobody has."""
    if name == OUTSIDE:
        return None
    if name.startswith("spiffe://"):
        return SpiffeId.parse(name)
    zones = {workload: zone for service in contract.services.values() for zone, workload in service.places}
    zones |= {EDGE_GATEWAY: "public", "bridge-inbound": "private", "bridge-outbound": "private"}
    zones |= {CORE_GATEWAY: "private", "operator": "private"}
    if name not in zones:
        raise ValueError(f"no workload is called {name}; there are {', '.join((OUTSIDE, *sorted(zones)))}")
    return SpiffeId(zones[name], name)


def _hops(contract: Contract, origin: SpiffeId | None, method: MethodPolicy, health: Health) -> Iterator[Hop]:
    if origin is None:
        yield from _from_outside(contract, method, health)
    elif method.zone == EACH:
        served = method.served_in(origin.zone)
        yield Hop(served, "mTLS", True, "by its address; no gateway and no name of xds:/// leads there")
        yield from _served(method, origin, health)
    elif origin.zone == method.zone == "private" and origin.workload == CORE_GATEWAY:
        yield from _served(method, origin, health)
    elif origin.zone != method.zone:
        why = f"{origin} is of the {origin.zone} zone, whose control plane knows no endpoint of {method.workload}"
        if origin.zone == "public":
            why += "; the core gateway takes nobody of that zone but the edge gateway"
        yield Hop(f"control-{origin.zone}", "zone", False, why)
    else:
        yield from _inside(contract, origin, method, health)


def _from_outside(contract: Contract, method: MethodPolicy, health: Health) -> Iterator[Hop]:
    compiled = configuration(_view(contract, "public"), EDGE_GATEWAY)
    bound = ", ".join(f"{rule.verb} {rule.template}" for rule in method.http)
    yield Hop(EDGE_GATEWAY, "TLS 1.3", True, "no client certificate is asked for")
    yield Hop(EDGE_GATEWAY, "route", bool(bound), bound or "the method has no HTTP binding")
    route = next(each for each in _routes(compiled[ROUTES]["edge"]) if _matches(each, method))
    limits = route["typed_per_filter_config"]
    yield Hop(EDGE_GATEWAY, "rate", None, f"{method.rate_class.name}: all callers of the method together")
    if JWT_FILTER in limits:
        yield Hop(EDGE_GATEWAY, "token", None, "a signed, unexpired token for this audience is required")
    cluster = str(route["route"]["cluster"])
    if method.zone == "public":
        yield Hop(cluster, "mTLS", True, f"to {method.workload}, over {route['route']['timeout']} at most")
        yield Hop(method.workload, "health", _up(health("edge")), health("edge") or "no mesh runs here")
        return
    yield Hop(CORE_GATEWAY, "mTLS", True, f"{EDGE_GATEWAY} is the one peer of the public zone")
    yield from _through_core(contract, SpiffeId("public", EDGE_GATEWAY), method)
    yield from _served(method, SpiffeId("private", CORE_GATEWAY), health)


def _inside(contract: Contract, origin: SpiffeId, method: MethodPolicy, health: Health) -> Iterator[Hop]:
    view = _view(contract, origin.zone)
    through_core = origin.zone == "private" and origin.workload not in view.grpc_workloads()
    if through_core and method.zone != "public":
        yield Hop(CORE_GATEWAY, "mTLS", True, "a caller without xds:/// channels comes in here, or to a node directly")
        yield from _through_core(contract, origin, method)
        yield from _served(method, origin, health)
        return
    compiled = configuration(view, GRPC)
    known = method.workload in compiled[CLUSTER]
    yield Hop(f"control-{origin.zone}", "xds", known, f"xds:///{method.workload} {'is' if known else 'is not'} known")
    yield from _served(method, origin, health)


def _through_core(contract: Contract, peer: SpiffeId, method: MethodPolicy) -> Iterator[Hop]:
    listener = configuration(_view(contract, "private"), CORE_GATEWAY)[LISTENER]["core"]
    filters = listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
    (access,) = (each for each in filters if each["name"] == "envoy.filters.http.rbac")
    policies = access["typed_config"]["rules"]["policies"]
    if peer.workload == EDGE_GATEWAY:
        yield Hop(CORE_GATEWAY, "RBAC", bool(method.http), "the edge gateway may ask for what has an HTTP binding")
        return
    granted = str({"exact": method.path}) in str(policies.get(peer.workload, {}).get("permissions", ""))
    yield Hop(CORE_GATEWAY, "RBAC", granted, f"{peer.workload} {'may' if granted else 'may not'} ask for it natively")


def _served(method: MethodPolicy, peer: SpiffeId, health: Health) -> Iterator[Hop]:
    at = method.served_in(peer.zone)
    if method.zone != EACH:
        # Control planes are probed by nobody.
        state = health(at)
        yield Hop(at, "health", _up(state), state or "no mesh runs here")
    named = peer.workload in method.callers
    yield Hop(at, "callers", named, f"{peer.workload} is {'' if named else 'not '}among them")
    if method.scopes:
        yield Hop(at, "scopes", None, f"the token must hold {' '.join(sorted(method.scopes))}")
    if method.human:
        yield Hop(at, "human", None, "the token must be a member's")
    if method.step_up:
        yield Hop(at, "step_up", None, "the token must show a fresh second factor")
    yield Hop(at, "rate", None, f"{method.rate_class.name}: this caller's own bucket")
    yield Hop(at, "fields", None, f"the field rules of {method.request}")
    yield Hop(at, "deadline", True, f"{method.deadline_ms} ms, or what the caller has left")


def _up(state: str) -> bool | None:
    return None if not state else "healthy" in state.replace("unhealthy", "")


def _view(contract: Contract, zone: str) -> View:
    """As the zone's control plane has it, with nothing but the gateways' own ports."""
    ports = tuple(
        Endpoint(name, "https", name, place, "127.0.0.1", 1)
        for name, place in ((EDGE_GATEWAY, "public"), (CORE_GATEWAY, "private"))
    )
    return View("isthmus.internal", zone, contract, ports, "https://issuer", "audience", Path("/"))


def _routes(configured: dict[str, Any]) -> list[dict[str, Any]]:
    routes: list[dict[str, Any]] = configured["virtual_hosts"][0]["routes"]
    return routes


def _matches(route: dict[str, Any], method: MethodPolicy) -> bool:
    return route["match"] in [matching(rule, method.zone) for rule in method.http]
