"""Faults and canary shares: laid over what is compiled, bounded, and gone when their time is up."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.control.compile import GRPC, Assignments, configuration, packed, with_endpoints
from mesh.control.health import State
from mesh.control.overrides import FILE, LIFE_S_MAX, Fault, OverrideBook, Overrides, Split
from mesh.control.resources.faults import FILTER
from mesh.control.snapshot import ENDPOINTS, ROUTES
from mesh.errors import InvalidArgument, ResourceExhausted

GET_ORDER = "/isthmus.orders.v1.Orders/GetOrder"
DECIDE = "/isthmus.ads.v1.Ads/Decide"
FAULT = Fault(GET_ORDER, 30, 100.0, delay_ms=20, abort="UNAVAILABLE")


def injected(source: Any, name: str) -> list[dict[str, Any]]:
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
    assert injected(configuration(view("private"), group), name) == []
    (setting,) = injected(configuration(replace(view("private"), overrides=Overrides((FAULT,))), group), name)
    assert setting["delay"]["fixed_delay"] == "0.02s"
    assert setting["abort"].items() >= status.items()
    assert setting["abort"]["percentage"]["numerator"] == 30


def test_the_public_s_faults_are_http_s(view: Any) -> None:
    fault = replace(FAULT, method=DECIDE)
    source = configuration(replace(view("public"), overrides=Overrides((fault,))), "edge-gateway")
    (first, *_) = injected(source, "edge")
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


class Clocks:
    """The one that people set, and the one that nobody sets."""

    def __init__(self) -> None:
        self.wall, self.monotonic = 40.0, 1000.0

    def pass_(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


def book(tmp_path: Path, clocks: Clocks, told: list[str] | None = None) -> OverrideBook:
    news = [] if told is None else told
    return OverrideBook(tmp_path / FILE, lambda: news.append("changed"), lambda: clocks.wall, lambda: clocks.monotonic)


def test_an_override_ends_by_itself(tmp_path: Path) -> None:
    clocks, told = Clocks(), list[str]()
    laid = book(tmp_path, clocks, told)
    assert laid.next_end_s() is None
    laid.lay(FAULT)
    assert told == ["changed"]
    assert laid.current.fault(GET_ORDER) == FAULT
    assert laid.next_end_s() == 60
    clocks.pass_(60)
    assert laid.next_end_s() == 0
    assert laid.current == Overrides()
    assert laid.next_end_s() is None


def test_a_clock_that_is_set_neither_ends_an_override_nor_keeps_it(tmp_path: Path) -> None:
    clocks = Clocks()
    laid = book(tmp_path, clocks)
    laid.lay(FAULT)
    clocks.wall += 10 * LIFE_S_MAX
    assert laid.current.faults == (FAULT,)
    clocks.wall = 0.0
    clocks.monotonic += 60
    assert laid.current == Overrides()


def test_a_clock_set_back_before_a_restart_adds_an_hour_at_most(tmp_path: Path) -> None:
    clocks = Clocks()
    clocks.wall = 10 * LIFE_S_MAX
    book(tmp_path, clocks).lay(replace(FAULT, expires=clocks.wall + 60))
    clocks.wall = 0.0
    assert book(tmp_path, clocks).next_end_s() == LIFE_S_MAX


def test_one_replaces_what_is_laid_over_the_same_and_any_can_be_ended(tmp_path: Path) -> None:
    laid = book(tmp_path, Clocks())
    laid.lay(FAULT)
    laid.lay(replace(FAULT, percent=50))
    split = Split("orders", ("orders-2",), 5, 100.0)
    laid.lay(split)
    assert laid.current == Overrides((replace(FAULT, percent=50),), (split,))
    assert laid.clear(DECIDE) == 0
    assert laid.clear(GET_ORDER) == 1
    assert laid.current == Overrides((), (split,))
    assert laid.clear() == 1
    assert laid.current == Overrides()


def test_the_next_life_takes_up_what_has_not_ended(tmp_path: Path) -> None:
    clocks = Clocks()
    split = Split("orders", ("orders-2",), 5, 60.0)
    first = book(tmp_path, clocks)
    first.lay(FAULT)
    first.lay(split)
    clocks.pass_(30)
    again = book(tmp_path, clocks)
    assert again.current == Overrides((FAULT,))
    assert again.next_end_s() == 30


def test_a_control_plane_holds_so_many_and_no_more(tmp_path: Path) -> None:
    laid = book(tmp_path, Clocks())
    for number in range(256):
        laid.lay(replace(FAULT, method=f"/isthmus.x/{number}"))
    with pytest.raises(ResourceExhausted, match="256"):
        laid.lay(FAULT)
    laid.lay(replace(FAULT, method="/isthmus.x/0", percent=1))


@pytest.mark.parametrize(
    "wrong",
    [{"percent": 0}, {"percent": 101}, {"delay_ms": 60_000}, {"abort": "BROKEN"}, {"abort": "", "delay_ms": 0}],
    ids=str,
)
def test_a_fault_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        replace(FAULT, **wrong)


def test_nobody_forgets_one_for_longer_than_an_hour(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="lives at most"):
        book(tmp_path, Clocks()).lay(replace(FAULT, expires=40.0 + LIFE_S_MAX + 1))


@given(st.binary(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_that_says_nothing_leaves_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert book(tmp_path, Clocks()).current == Overrides()
