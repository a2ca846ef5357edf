"""Who comes first: the endpoints of a data plane's own sub-zone, as long as none of them is alone there."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from envoy.config.core.v3 import health_check_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from hypothesis import given
from hypothesis import strategies as st

from deploy.local import table
from deploy.local.settings import LauncherSettings
from mesh.control.cache import SnapshotCache
from mesh.control.compile import GRPC, configuration, packed, with_endpoints
from mesh.control.health import State
from mesh.control.overrides import Overrides, Split
from mesh.control.registry import Endpoint
from mesh.control.resources.endpoints import assignment
from mesh.control.resources.view import View
from mesh.control.snapshot import ENDPOINTS, Snapshot

Views = Callable[[str], View]
USABLE = (health_check_pb2.HEALTHY, health_check_pb2.UNKNOWN)


def orders(number: int, sub_zone: str) -> Endpoint:
    return Endpoint("orders", "grpc", f"orders-{number}", "private", "127.0.0.1", 20000 + number, sub_zone)


def spread(view: View) -> View:
    """Two nodes of orders in a, one in b, and that one is preferred too."""
    return replace(view, endpoints=(orders(1, "a"), orders(2, "a"), orders(3, "b")), near_nodes_min=1)


def well(_: str) -> State:
    return State.HEALTHY


def told(snapshot: Snapshot, sub_zone: str) -> dict[str, tuple[int, int]]:
    """By sub-zone of orders' endpoints: priority and weight, as a data plane in `sub_zone` is told."""
    message = endpoint_pb2.ClusterLoadAssignment()
    snapshot.seen_from(sub_zone).resources[ENDPOINTS]["orders"].packed.Unpack(message)
    return {each.locality.sub_zone: (each.priority, each.load_balancing_weight.value) for each in message.endpoints}


def test_each_sub_zone_has_its_own_first(view: Views) -> None:
    here = spread(view("private"))
    snapshot = with_endpoints(here, packed(configuration(here, GRPC)), well)
    assert told(snapshot, "a") == {"a": (0, 2), "b": (1, 1)}
    assert told(snapshot, "b") == {"b": (0, 1), "a": (1, 2)}
    # Of whom the table says nothing, or where nobody of the workload stands: no preference, each endpoint alike.
    for elsewhere in ("", "c"):
        assert told(snapshot, elsewhere) == {"a": (0, 2), "b": (0, 1)}


def test_where_one_is_alone_in_its_sub_zone_others_share_its_calls(view: Views) -> None:
    here = replace(spread(view("private")), near_nodes_min=2)
    resources = packed(configuration(here, GRPC))
    assert told(with_endpoints(here, resources, well), "a") == {"a": (0, 2), "b": (1, 1)}
    assert told(with_endpoints(here, resources, well), "b") == {"b": (0, 1), "a": (0, 2)}
    # It is alone as well once the other one cannot be called.
    one_left = with_endpoints(here, resources, lambda node: State[_STATES.get(node, "HEALTHY")])
    assert told(one_left, "a") == {"a": (0, 1), "b": (0, 1)}


def test_a_zone_without_parts_is_told_one_thing(view: Views) -> None:
    here = view("private")
    snapshot = with_endpoints(here, packed(configuration(here, GRPC)), well)
    assert not snapshot.near
    assert told(snapshot, "a") == {"": (0, 1)}


def test_a_share_holds_wherever_the_caller_stands(view: Views) -> None:
    here = spread(view("private"))
    shared = replace(here, overrides=Overrides(splits=(Split("orders", ("orders-3",), 10, 1e12),)))
    snapshot = with_endpoints(shared, packed(configuration(here, GRPC)), well)
    for place in ("a", "b", ""):
        assert told(snapshot, place) == {"": (0, 90), "canary": (0, 10)}


@given(
    nodes=st.lists(st.tuples(st.sampled_from(["", "a", "b", "c"]), st.sampled_from(list(State))), max_size=8),
    near=st.sampled_from(["", "a", "b", "d"]),
    near_min=st.integers(1, 3),
)
def test_nobody_is_left_out_and_priorities_have_no_gap(
    nodes: list[tuple[str, State]], near: str, near_min: int
) -> None:
    endpoints = [orders(number, place) for number, (place, _) in enumerate(nodes)]
    states = {each.node: state for each, (_, state) in zip(endpoints, nodes, strict=True)}
    message = assignment("orders", endpoints, lambda node: states[node], near=near, near_min=near_min)
    ports = [each.endpoint.address.socket_address.port_value for one in message.endpoints for each in one.lb_endpoints]
    assert sorted(ports) == sorted(each.port for each in endpoints)
    by_priority: defaultdict[int, list[Any]] = defaultdict(list)
    for one in message.endpoints:
        by_priority[one.priority].append(one)
    assert sorted(by_priority) == list(range(len(by_priority)))
    assert len(by_priority) <= 2
    if len(by_priority) == 2:
        assert [one.locality.sub_zone for one in by_priority[0]] == [near]
        assert sum(each.health_status in USABLE for each in by_priority[0][0].lb_endpoints) >= near_min
    # Somebody can be called unless all of them say that they drain.
    shown = [each.health_status for one in message.endpoints for each in one.lb_endpoints]
    assert any(each in USABLE for each in shown) == any(state is not State.DRAINING for _, state in nodes)


def test_what_is_good_is_gone_back_to_with_the_endpoints_of_each_sub_zone(view: Views) -> None:
    here = spread(view("private"))
    first = with_endpoints(here, packed(configuration(here, GRPC)), well)
    later = with_endpoints(here, packed(configuration(here, GRPC)), lambda node: State[_STATES.get(node, "HEALTHY")])
    gone_back = first.with_endpoints_of(later)
    for place in ("", "a", "b"):
        assert gone_back.seen_from(place).versions == later.seen_from(place).versions
    assert told(gone_back, "a") == {"a": (0, 1), "b": (1, 1)}


_STATES = {"orders-1": "UNHEALTHY"}


def test_a_sub_zone_that_appears_is_told_though_no_endpoint_has_changed(view: Views) -> None:
    here = spread(view("private"))
    resources = packed(configuration(here, GRPC))
    cache = SnapshotCache()
    cache.set(GRPC, with_endpoints(here, resources, well))
    caller = Endpoint("payments", "metrics", "payments-1", "private", "127.0.0.1", 20009, "c")
    cache.set(GRPC, with_endpoints(replace(here, endpoints=(*here.endpoints, caller)), resources, well))
    current = cache.get(GRPC)
    assert current is not None
    assert current.near.keys() == {"a", "b", "c"}


def test_the_launcher_spreads_replicas_over_sub_zones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISTHMUS_HOME", str(tmp_path))
    monkeypatch.setenv("ISTHMUS_SUB_ZONES", "2")
    found = {row.name: row.process for row in table.build(LauncherSettings(edge_nodes=3))}
    assert [found[f"edge-{number}"].sub_zone for number in (1, 2, 3)] == ["a", "b", "a"]
    assert [found[name].sub_zone for name in ("orders-1", "orders-2", "edge-gateway")] == ["a", "b", "a"]
    monkeypatch.delenv("ISTHMUS_SUB_ZONES")
    assert {row.process.sub_zone for row in table.build(LauncherSettings())} == {""}
