"""Faults and canary shares: laid over what is compiled, bounded, and gone when their time is up."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.control.compile import GRPC, Assignments, configuration, packed, with_endpoints
from mesh.control.health import State
from mesh.control.overrides import LIFE_S_MAX, Fault, OverrideError, Overrides, OverridesFile, Split
from mesh.control.resources.faults import FILTER
from mesh.control.snapshot import ENDPOINTS, ROUTES

GET_ORDER = "/isthmus.orders.v1.Orders/GetOrder"
DECIDE = "/isthmus.ads.v1.Ads/Decide"
FAULT = Fault(GET_ORDER, 30, 100.0, delay_ms=20, abort="UNAVAILABLE")


def settings(source: Any, name: str) -> list[dict[str, Any]]:
    routes = source[ROUTES][name]["virtual_hosts"][0]["routes"]
    return [
        each["typed_per_filter_config"][FILTER] for each in routes if FILTER in each.get("typed_per_filter_config", {})
    ]


@pytest.mark.parametrize(
    ("group", "name", "status"),
    # Before the core gateway's transcoder, a call with an HTTP binding may be one of either kind.
    [("core-gateway", "core", {"http_status": 503}), (GRPC, "orders", {"grpc_status": 14})],
)
def test_a_fault_stands_at_the_method_s_route_alone(view: Any, group: str, name: str, status: dict[str, int]) -> None:
    assert settings(configuration(view("private"), group), name) == []
    (setting,) = settings(configuration(replace(view("private"), overrides=Overrides((FAULT,))), group), name)
    assert setting["delay"]["fixed_delay"] == "0.02s"
    assert setting["abort"].items() >= status.items()
    assert setting["abort"]["percentage"]["numerator"] == 30


def test_the_public_s_faults_are_http_s(view: Any) -> None:
    fault = replace(FAULT, method=DECIDE)
    source = configuration(replace(view("public"), overrides=Overrides((fault,))), "edge-gateway")
    (first, *_) = settings(source, "edge")
    assert first["abort"]["http_status"] == 503


def test_another_fault_renames_the_host_that_grpc_would_take_for_the_same(view: Any) -> None:
    names = set()
    for percent in (10, 20):
        overrides = Overrides((replace(FAULT, percent=percent),))
        source = configuration(replace(view("private"), overrides=overrides), GRPC)
        names.add(source[ROUTES]["orders"]["virtual_hosts"][0]["name"])
    assert len(names) == 2


def test_a_split_gives_its_nodes_a_locality_with_their_share(view: Any) -> None:
    split = Split("orders", ("orders-2",), 5, 100.0)
    before = view("private")
    resources, known = packed(configuration(before, GRPC)), Assignments()
    with_endpoints(before, resources, lambda _: State.HEALTHY, known)
    changed = replace(before, overrides=Overrides(splits=(split,)))
    snapshot = with_endpoints(changed, resources, lambda _: State.HEALTHY, known)
    from envoy.config.endpoint.v3 import endpoint_pb2

    message = endpoint_pb2.ClusterLoadAssignment()
    snapshot.resources[ENDPOINTS]["orders"].packed.Unpack(message)
    shares = {each.locality.sub_zone: each.load_balancing_weight.value for each in message.endpoints}
    assert shares == {"": 95, "canary": 5}
    assert [len(each.lb_endpoints) for each in message.endpoints] == [1, 1]


def test_an_override_ends_by_itself_and_a_broken_file_ends_none(tmp_path: Path) -> None:
    now = 0.0
    path = tmp_path / "overrides.json"
    file = OverridesFile(path, lambda: now)
    assert not file.refresh()
    path.write_text(Overrides((FAULT,)).to_json())
    assert file.refresh()
    assert file.current.fault(GET_ORDER) == FAULT
    path.write_text("{")
    os.utime(path, ns=(1, 1))
    assert not file.refresh(), "what stands goes on"
    now = 100.0
    assert file.refresh()
    assert file.current == Overrides()


@pytest.mark.parametrize(
    "wrong",
    [{"percent": 0}, {"percent": 101}, {"delay_ms": 60_000}, {"abort": "BROKEN"}, {"abort": "", "delay_ms": 0}],
    ids=str,
)
def test_a_fault_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OverrideError):
        replace(FAULT, **wrong)


def test_nobody_forgets_one_for_longer_than_an_hour() -> None:
    text = Overrides((replace(FAULT, expires=LIFE_S_MAX + 1),)).to_json().encode()
    with pytest.raises(OverrideError, match="lives at most"):
        Overrides.from_json(text, 0.0)


@given(st.binary(max_size=300))
def test_any_bytes_are_overrides_or_refused(content: bytes) -> None:
    try:
        Overrides.from_json(content, 0.0)
    except OverrideError:
        return
