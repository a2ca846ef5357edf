"""What probes show, and what data planes are told of it."""

from typing import Any

from envoy.config.core.v3 import health_check_pb2

from mesh.control.health import Record, State
from mesh.control.probes import Outcome
from mesh.control.resources.endpoints import assignment
from tests.unit.control.conftest import endpoint

NODES = [endpoint("orders", "grpc", number, "private") for number in (1, 2, 3)]


def told(*states: State) -> list[Any]:
    by_node = {node.node: state for node, state in zip(NODES, states, strict=True)}
    found = assignment("orders", NODES, by_node.__getitem__)
    return [each.health_status for each in found.endpoints[0].lb_endpoints]


def test_one_failure_is_doubted_and_asked_about_at_once_and_two_are_believed() -> None:
    record = Record(State.HEALTHY)
    assert not record.observe(Outcome.FAILED)
    assert record.doubtful
    assert record.observe(Outcome.FAILED)
    assert record.state is State.UNHEALTHY
    assert not record.doubtful


def test_a_probe_of_a_starved_control_plane_proves_nothing() -> None:
    record = Record(State.HEALTHY, failures=1)
    assert not record.observe(Outcome.UNSURE)
    assert record.state is State.HEALTHY


def test_one_success_is_enough_to_come_back() -> None:
    record = Record(State.UNHEALTHY, failures=9)
    assert record.observe(Outcome.SERVING)
    assert record.state is State.HEALTHY


def test_a_process_that_says_that_it_drains_is_believed_at_once() -> None:
    record = Record(State.HEALTHY)
    assert record.observe(Outcome.NOT_SERVING)
    assert record.state is State.DRAINING


def test_the_unhealthy_and_the_draining_are_named_as_such() -> None:
    assert told(State.HEALTHY, State.UNHEALTHY, State.DRAINING) == [
        health_check_pb2.HEALTHY,
        health_check_pb2.UNHEALTHY,
        health_check_pb2.DRAINING,
    ]


def test_the_unknown_take_no_calls_while_another_is_healthy() -> None:
    assert told(State.HEALTHY, State.UNKNOWN, State.UNKNOWN)[1:] == [health_check_pb2.UNHEALTHY] * 2


def test_the_unknown_take_calls_where_none_is_healthy() -> None:
    assert told(State.UNHEALTHY, State.UNKNOWN, State.UNHEALTHY)[1] == health_check_pb2.UNKNOWN


def test_where_all_fail_the_probes_are_doubted_and_not_the_whole_workload() -> None:
    assert told(State.UNHEALTHY, State.DRAINING, State.UNHEALTHY) == [
        health_check_pb2.UNKNOWN,
        health_check_pb2.DRAINING,
        health_check_pb2.UNKNOWN,
    ]


def test_a_cluster_without_endpoints_is_answered_all_the_same() -> None:
    assert assignment("orders", [], lambda _: State.UNKNOWN).cluster_name == "orders"
