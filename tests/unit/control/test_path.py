"""`isthmus explain` and `policy explain` tell what is enforced, for callers that may and for those that may not."""

import re

import pytest
from isthmus.policy.v1 import policy_pb2

from mesh.contract import load
from mesh.contract.explain import SOURCES, find, rules
from mesh.control.path import Hop, hops, origin
from mesh.spiffe import SpiffeId


def walk(caller: str, method: str, health: str = "") -> list[Hop]:
    contract = load()
    (found,) = find(contract, method)
    return hops(contract, origin(contract, caller), found, lambda _: health)


# By rule: how whatever enforces it reads it off the policy, or whom it leaves that to.
ENFORCES = {
    "callers": r"\.callers",
    "scopes": r"\.scopes|check_subject\(",
    "human": r"\.human|check_subject\(",
    "step_up": r"\.step_up|check_subject\(",
    "rate_class": r"\.rate_class|CallerRates\(|RateClass\.CROWD",
    "rate_key": r"\.rate_key",
    "fields": r"protovalidate\.|query\.time_us\(",
    "deadline_ms": r"\.deadline_ms|\.deadline_s",
    "idempotent": r"\.idempotent",
    "retry": r"\.retry_attempts|\.retry_budget_percent",
    "audit": r"\.audit\b",
    "subject_field": r"\.subject_field",
    "answer": r"\.answer\b|\.answer_class",
    "location_field": r"\.location_field|\"location\"",
}


def enforced() -> set[tuple[str, str]]:
    """Rule and file, of every method."""
    explained = [rule for method in load().methods.values() for rule in rules(method, None)]
    return {(rule.rule, place.split()[0].strip(",:")) for rule in explained for place in rule.enforced}


def test_what_is_said_to_enforce_a_rule_is_there_and_reads_it() -> None:
    found = {(rule, place): SOURCES.parent / place for rule, place in enforced()}
    assert {rule for rule, _ in found} == ENFORCES.keys()
    assert [each for each, path in found.items() if not path.is_file()] == []
    assert [each for each, path in found.items() if not re.search(ENFORCES[each[0]], path.read_text())] == []


def test_every_part_of_a_policy_is_explained() -> None:
    told = {rule for rule, _ in enforced()}
    assert {field.name for field in policy_pb2.MethodPolicy.DESCRIPTOR.fields} == told - {"fields"}


def test_the_point_that_decides_for_the_core_gateway_is_named() -> None:
    (method,) = find(load(), "Orders.PlaceOrder")
    deciding = {rule.rule for rule in rules(method, None) if any("security/gateway/" in at for at in rule.enforced)}
    assert deciding >= {"scopes", "rate_class"}
    (public,) = find(load(), "Ads.Decide")
    assert not any("security/" in at for rule in rules(public, None) for at in rule.enforced if rule.rule != "answer")


def test_an_order_goes_through_both_gateways() -> None:
    steps = walk("outside", "orders/PlaceOrder", "orders-1 healthy")
    places = list(dict.fromkeys(hop.at for hop in steps))
    assert places == ["edge-gateway", "core-gateway", "orders"]
    assert [hop.rule for hop in steps if hop.at == "edge-gateway"] == ["TLS 1.3", "route", "rate", "token"]
    assert not [hop for hop in steps if hop.allowed is False]


def test_an_ad_touches_nothing_private() -> None:
    places = {hop.at for hop in walk("outside", "Ads.Decide")}
    assert not places & {"core-gateway", "control-private", "orders"}


def test_what_has_no_http_binding_is_not_there_for_the_public() -> None:
    last = walk("outside", "Members.CheckMember")[-1]
    assert (last.at, last.rule, last.allowed) == ("edge-gateway", "route", False)


def test_a_caller_that_is_not_named_ends_at_the_service() -> None:
    last = walk("members", "orders/GetOrder")[-1]
    assert (last.at, last.rule, last.allowed) == ("orders", "callers", False)


def test_a_named_caller_passes() -> None:
    assert all(hop.allowed is not False for hop in walk("payments", "orders/GetOrder", "orders-1 healthy"))


def test_the_public_zone_has_no_way_of_its_own() -> None:
    (only,) = walk("edge", "orders/GetOrder")
    assert (only.at, only.allowed) == ("control-public", False)


def test_a_workload_without_a_healthy_node_is_a_refusal() -> None:
    last = walk("payments", "orders/GetOrder", "orders-1 unhealthy, orders-2 unhealthy")[-1]
    assert (last.rule, last.allowed) == ("health", False)


def test_an_operator_comes_in_through_the_core_gateway() -> None:
    steps = walk("operator", "orders/SummarizeOrders")
    assert [(hop.at, hop.rule) for hop in steps][:2] == [("core-gateway", "mTLS"), ("core-gateway", "RBAC")]
    assert all(hop.allowed is not False for hop in steps)


def test_each_zones_control_plane_is_for_the_operator_of_that_zone() -> None:
    for caller, served in (
        ("operator", "control-private"),
        ("spiffe://isthmus.internal/public/operator", "control-public"),
    ):
        steps = walk(caller, "Control.ListChanges")
        assert {hop.at for hop in steps} == {served}
        assert all(hop.allowed is not False for hop in steps)
    assert walk("edge", "Control.ListChanges")[-1].rule == "callers"
    assert walk("outside", "Control.ListChanges")[-1].allowed is False


def test_a_name_that_nobody_has_is_an_error() -> None:
    with pytest.raises(ValueError, match="no workload is called nobody"):
        walk("nobody", "orders/GetOrder")


def test_each_rule_names_the_line_where_it_is_written() -> None:
    (method,) = find(load(), "Orders.PlaceOrder")
    for rule in rules(method, SpiffeId("private", "core-gateway")):
        file, _, line = rule.written.removeprefix("protos/").rpartition(":")
        text = (SOURCES / file).read_text().splitlines()[int(line) - 1]
        assert rule.rule in text or rule.rule == "fields", (rule, text)


def test_the_verdict_on_a_principal() -> None:
    (method,) = find(load(), "Orders.GetOrder")
    verdicts = {
        str(who): next(rule.verdict for rule in rules(method, who) if rule.rule == "callers")
        for who in (SpiffeId("private", "payments"), SpiffeId("private", "members"), SpiffeId("public", "payments"))
    }
    assert [each.split(":")[0] for each in verdicts.values()] == ["allows", "refuses", "refuses"]
