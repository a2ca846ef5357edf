"""What is compiled from the contract for gateways and clients."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from mesh.contract import load, openapi, templates
from mesh.control.compile import GRPC, assignment, configuration, packed, with_endpoints
from mesh.control.health import State
from mesh.control.resources import access, paths, rates, transcoding
from mesh.control.resources.routes import JWT_FILTER
from mesh.control.resources.view import CORE_GATEWAY, EDGE_GATEWAY, View
from mesh.control.snapshot import CLUSTER, ENDPOINTS, LISTENER, ROUTES
from mesh.problem import HTTP_STATUS
from mesh.settings import ProcessSettings

Views = Callable[[str], View]


def routes_of(view: View, group: str, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = configuration(view, group)[ROUTES][name]["virtual_hosts"][0]["routes"]
    return found


def route_for(routes: list[dict[str, Any]], verb: str, path: str) -> dict[str, Any]:
    """The first route that takes a request, as Envoy chooses it."""
    for route in routes:
        match = route["match"]
        matchers = [header["string_match"] for header in match.get("headers", [])]
        verbs = [verb for each in matchers for verb in (each.get("exact") or each["safe_regex"]["regex"]).split("|")]
        if verbs and verb not in verbs:
            continue
        if (
            match.get("path") == path
            or ("safe_regex" in match and re.fullmatch(match["safe_regex"]["regex"], path))
            or path.startswith(match.get("prefix", "\0"))
        ):
            return route
    return {}


@pytest.mark.parametrize(
    ("template", "path", "matches"),
    [
        ("/v1/ads:decide", "/v1/ads:decide", True),
        ("/v1/orders/{order_id}:cancel", "/v1/orders/a-1:cancel", True),
        ("/v1/orders/{order_id}:cancel", "/v1/orders/a-1", False),
        ("/v1/orders/{order_id}", "/v1/orders/a/b", False),
        ("/v1/orders/{order_id}", "/v1/orders/", False),
        ("/v1/content-items/{item.slug}/{item.locale}", "/v1/content-items/a/de", True),
        # A verb is no part of a name, unless it is percent-encoded.
        ("/v1/orders/{order_id}", "/v1/orders/a-1:cancel", False),
        ("/v1/orders/{order_id}", "/v1/orders/a-1%3Acancel", True),
    ],
)
def test_a_variable_is_one_segment(template: str, path: str, matches: bool) -> None:
    assert bool(re.fullmatch(templates.pattern(template), path)) is matches


@pytest.mark.parametrize("template", ["/v1/{name=**}", "/v1/*", "/v1/{a=b/*}"])
def test_templates_that_cannot_be_routed_are_refused(template: str) -> None:
    with pytest.raises(templates.TemplateError):
        templates.pattern(template)


def test_every_binding_of_the_contract_has_a_route_with_its_deadline(view: Views) -> None:
    routes = routes_of(view("public"), EDGE_GATEWAY, "edge")
    for method in load().methods.values():
        for rule in method.http:
            path = re.sub(r"\{[^}]+\}", "x", rule.template)
            target = route_for(routes, rule.verb, path)["route"]
            assert target["timeout"] == f"{method.deadline_s}s"
            assert target["cluster"] == ("edge-http" if method.zone == "public" else "core-gateway")


def test_a_token_is_required_exactly_where_the_contract_names_scopes(view: Views) -> None:
    routes = routes_of(view("public"), EDGE_GATEWAY, "edge")
    for method in load().methods.values():
        for rule in method.http:
            route = route_for(routes, rule.verb, re.sub(r"\{[^}]+\}", "x", rule.template))
            assert (JWT_FILTER in route.get("typed_per_filter_config", {})) is bool(method.scopes)


def test_only_idempotent_methods_are_repeated_and_never_on_the_same_node(view: Views) -> None:
    for zone, group, name in (("public", EDGE_GATEWAY, "edge"), ("private", CORE_GATEWAY, "core")):
        routes = routes_of(view(zone), group, name)
        for method in load().methods.values():
            if method.zone != zone:
                continue
            found = [("GET", method.path)] if zone == "private" else [(r.verb, r.template) for r in method.http]
            for verb, template in found:
                route = route_for(routes, verb, re.sub(r"\{[^}]+\}", "x", template))["route"]
                assert ("retry_policy" in route) is (method.idempotent and method.retry_attempts > 1)
                if "retry_policy" in route:
                    assert route["retry_policy"]["num_retries"] == method.retry_attempts - 1
                    assert "previous_hosts" in route["retry_policy"]["retry_host_predicate"][0]["name"]


def test_each_cluster_of_a_gateway_has_the_largest_retry_budget_of_its_workload(view: Views) -> None:
    granted: dict[str, int] = {}
    for method in load().methods.values():
        granted[method.workload] = max(granted.get(method.workload, 0), method.retry_budget_percent)
    # What only never reached anybody is repeated of: the contract's budgets are not for that.
    unreached = {CORE_GATEWAY: 20, "oauth-http": 20}
    found = {}
    for zone, group in (("public", EDGE_GATEWAY), ("private", CORE_GATEWAY)):
        for name, cluster in configuration(view(zone), group)[CLUSTER].items():
            (threshold,) = cluster["circuit_breakers"]["thresholds"]
            found[name] = threshold["retry_budget"]["budget_percent"]["value"]
            expected = unreached[name] if name in unreached else granted[name.removesuffix("-http")]
            assert found[name] == expected, name
    # They differ, so it matters whose is whose.
    assert len({found[name] for name in found.keys() - unreached.keys()}) > 1


def test_a_route_of_a_client_leaves_deadlines_and_retries_to_its_channel(view: Views) -> None:
    for zone in ("public", "private"):
        for method in load().methods.values():
            if method.zone == zone:
                target = route_for(routes_of(view(zone), GRPC, method.workload), "POST", method.path)["route"]
                assert target == {"cluster": method.workload}, method.path


def test_a_client_has_no_more_calls_under_way_than_a_server_works_on(view: Views) -> None:
    at_a_time = ProcessSettings.model_fields["concurrent_calls_max"].default
    for zone in ("public", "private"):
        for cluster in configuration(view(zone), GRPC)[CLUSTER].values():
            assert cluster["circuit_breakers"] == {"thresholds": [{"max_requests": at_a_time}]}


def test_wrong_methods_and_unknown_paths(view: Views) -> None:
    routes = routes_of(view("public"), EDGE_GATEWAY, "edge")
    wrong = route_for(routes, "DELETE", "/v1/orders")
    assert wrong["direct_response"]["status"] == 405
    assert wrong["response_headers_to_add"][0]["header"]["value"] == "POST"
    assert route_for(routes, "GET", "/v1/nothing") == {}
    # A verb that some have, and one that none has, are no part of a name.
    verb = route_for(routes, "GET", "/v1/payments/x:void")
    assert verb["response_headers_to_add"][0]["header"]["value"] == "POST"
    assert (
        route_for(routes, "POST", "/v1/payments/x:nothing") == route_for(routes, "GET", "/v1/payments/x:nothing") == {}
    )
    # A template that says more, though the variable of another would take it.
    several = {"/v1/orders/x": "GET", "/v1/orders/x:cancel": "POST", "/v1/members/x:export": "GET"}
    # And a path whose variable two methods call by two names.
    for path, allowed in (several | {"/v1/campaigns/x": "DELETE, PUT"}).items():
        assert route_for(routes, "PATCH", path)["response_headers_to_add"][0]["header"]["value"] == allowed
    assert route_for(routes, "HEAD", "/v1/orders/x")["response_headers_to_add"][0]["header"]["value"] == "GET"


def test_the_public_s_gateway_has_a_bucket_for_each_address_and_each_slot(view: Views) -> None:
    routes = routes_of(view("public"), EDGE_GATEWAY, "edge")

    def apart(verb: str, path: str) -> list[str]:
        filters = route_for(routes, verb, path)["typed_per_filter_config"]
        limits = [filters[name] for name in (rates.FILTER, rates.KEY_FILTER) if name in filters]
        return [entry["key"] for limit in limits for each in limit["descriptors"] for entry in each["entries"]]

    assert apart("GET", "/v1/ads:decide") == ["masked_remote_address", "slot"]
    assert apart("GET", "/v1/orders/x") == ["masked_remote_address"]
    # Behind the core gateway all come from one address.
    assert "masked_remote_address" not in str(routes_of(view("private"), CORE_GATEWAY, "core"))


def test_whoever_uses_another_method_is_told_those_of_the_document(view: Views) -> None:
    public = view("public")
    routes = routes_of(public, EDGE_GATEWAY, "edge")
    for path, told in openapi.document(load(), public.issuer)["paths"].items():
        wrong = route_for(routes, "OPTIONS", re.sub(r"\{[^}]+\}", "x", path))
        allowed = wrong["response_headers_to_add"][0]["header"]["value"]
        assert allowed == ", ".join(sorted(verb.upper() for verb in told)), path


def test_the_gateway_answers_with_the_document_of_what_may_be_asked_for_itself(view: Views) -> None:
    public = view("public")
    routes = routes_of(public, EDGE_GATEWAY, "edge")
    told = route_for(routes, "GET", "/openapi.json")["direct_response"]
    assert json.loads(told["body"]["inline_string"]) == openapi.document(load(), public.issuer)
    size_max = configuration(public, EDGE_GATEWAY)[ROUTES]["edge"]["max_direct_response_body_size_bytes"]
    assert size_max == len(told["body"]["inline_string"].encode())
    assert route_for(routes, "POST", "/openapi.json")["direct_response"]["status"] == 405


def test_the_public_may_ask_for_the_headers_alone_wherever_an_edge_node_answers(view: Views) -> None:
    routes = routes_of(view("public"), EDGE_GATEWAY, "edge")
    bound = [(method.zone, rule) for method in load().methods.values() for rule in method.http]
    answered = {rule.template for zone, rule in bound if (zone, rule.verb) == ("public", "GET")}
    for _, rule in bound:
        found = route_for(routes, "HEAD", re.sub(r"\{[^}]+\}", "x", rule.template))
        assert ("route" in found) is (rule.template in answered)


def test_native_paths_are_not_for_the_public(view: Views) -> None:
    routes = routes_of(view("public"), EDGE_GATEWAY, "edge")
    assert route_for(routes, "POST", "/isthmus.orders.v1.Orders/PlaceOrder") == {}


def test_the_edge_gateway_may_reach_nothing_without_a_binding(view: Views) -> None:
    rules = access.filter_(view("private"))["typed_config"]["rules"]
    permissions = rules["policies"][EDGE_GATEWAY]["permissions"][0]["or_rules"]["rules"]
    text = str(permissions)
    assert rules["action"] == "ALLOW"
    assert "/isthmus." not in text
    bound = {rule.template for each in load().methods.values() if each.zone == "private" for rule in each.http}
    assert all(str(paths.matcher(template)) in text for template in bound)


def test_other_callers_may_reach_exactly_the_methods_that_name_them(view: Views) -> None:
    policies = access.filter_(view("private"))["typed_config"]["rules"]["policies"]
    assert policies.keys() == {EDGE_GATEWAY, "operator"}
    rules = policies["operator"]["permissions"][0]["or_rules"]["rules"]
    allowed = {each["url_path"]["path"]["exact"] for each in rules if "url_path" in each}
    named = [each for each in load().methods.values() if "operator" in each.callers and each.zone == "private"]
    # And its certificate proves it to the authorization server.
    assert allowed == {each.path for each in named} | {"/oauth/token"}
    # As JSON, too, where they are bound to HTTP.
    bound = [rule for each in named for rule in each.http]
    assert [each["and_rules"]["rules"] for each in rules if "and_rules" in each] == [
        [{"header": paths.method(rule.verb)}, {"url_path": {"path": paths.matcher(rule.template)}}] for rule in bound
    ]
    assert bound


def test_no_snapshot_of_the_public_zone_holds_a_private_endpoint_but_the_gate(view: Views) -> None:
    public = view("public")
    for group in (EDGE_GATEWAY, GRPC):
        snapshot = with_endpoints(public, packed(configuration(public, group)), lambda _: State.HEALTHY)
        for name in snapshot.resources[ENDPOINTS]:
            zones = {each.region for each in _localities(public, name)}
            assert zones <= ({"private"} if name == CORE_GATEWAY else {"public"})


def _localities(view: View, name: str) -> list[Any]:
    return [each.locality for each in assignment(view, name, lambda _: State.HEALTHY).endpoints]


def test_grpc_clients_are_told_nothing_that_they_would_ignore_or_refuse(view: Views) -> None:
    text = str(configuration(view("private"), GRPC))
    for ignored in ("'timeout'", "consecutive_5xx", "retry_budget", "health_checks", "prefix_rewrite", "jwt_authn"):
        assert ignored not in text
    for refused in ("LEAST_REQUEST", "RANDOM", "STRICT_DNS"):
        assert refused not in text


def test_every_cluster_names_its_peer_exactly(view: Views) -> None:
    for zone, groups in (("public", (EDGE_GATEWAY, GRPC)), ("private", (CORE_GATEWAY, GRPC))):
        for group in groups:
            for cluster in configuration(view(zone), group)[CLUSTER].values():
                assert re.search(r"'exact': 'spiffe://isthmus\.internal/(public|private)/[a-z-]+'", str(cluster))


def test_every_listener_is_tls_1_3(view: Views) -> None:
    for zone, group in (("public", EDGE_GATEWAY), ("private", CORE_GATEWAY)):
        for listener in configuration(view(zone), group)[LISTENER].values():
            for chain in listener["filter_chains"]:
                parameters = chain["transport_socket"]["typed_config"]["common_tls_context"]["tls_params"]
                assert set(parameters.values()) == {"TLSv1_3"}


def test_every_status_a_service_can_answer_is_mapped_in_the_gateway_as_in_the_mesh(view: Views) -> None:
    source = transcoding.filters(view("private"))[0]["typed_config"]["default_source_code"]["inline_string"]
    mapped = {int(code): int(status) for code, status in re.findall(r"\[(\d+)\] = (\d+)", source)}
    for code, status in HTTP_STATUS.items():
        assert mapped[code.value[0]] == status
