"""Routes compiled from the contract: where a method's calls go, how long they may take and when they are repeated."""

import hashlib
import json
from typing import Any, Final

from mesh.contract import HttpRule, MethodPolicy, openapi
from mesh.contract.templates import order, pattern
from mesh.control.resources import decision, faults, paths, rates, transcoding
from mesh.control.resources.clusters import EDGE_HTTP, OAUTH_HTTP
from mesh.control.resources.view import BODY_BYTES_MAX, CORE_GATEWAY, View
from mesh.spiffe import ZONES

EDGE: Final = "edge"
CORE: Final = "core"
JWT_FILTER: Final = "envoy.filters.http.jwt_authn"
JWT_REQUIREMENT: Final = "access-token"
# Pages and keys of the authorization server.
OAUTH_PREFIXES: Final = ("/oauth/", "/.well-known/")
OAUTH_TOKEN_PATH: Final = "/oauth/token"  # noqa: S105 (a path)
OAUTH_TIMEOUT_S: Final = 5
# What the gateways themselves speak through; from outside it would be somebody pretending.
_RESERVED: Final = ("tracestate", "baggage", "x-request-start", "x-original-url", "x-rewrite-url", "x-jwt-payload")
# A node that was never reached, that died over the request, or that says that it cannot answer.
_LOST: Final = "connect-failure,refused-stream,reset,reset-before-request,retriable-status-codes"
_TRACEPARENT: Final = {"header": {"key": "traceparent", "value": "%DYNAMIC_METADATA(isthmus:traceparent)%"}}
# How the answer of a gRPC server travels; over HTTP it says nothing that the status and the body do not.
_GRPC_ANSWER: Final = (
    "grpc-status",
    "grpc-message",
    "grpc-status-details-bin",
    "grpc-encoding",
    "grpc-accept-encoding",
)


def edge(view: View) -> dict[str, Any]:
    """What the public may ask for: methods with an HTTP binding, and the authorization server's pages."""
    bound = [(rule, method) for zone in ZONES for method in view.methods(zone) for rule in method.http]
    routes = [
        {
            "match": matching(rule, method.zone),
            **(_to_edge(view, method, rule) if method.zone == "public" else _to_core(view, method)),
        }
        for rule, method in sorted(bound, key=lambda each: order(each[0].template))
    ]
    routes += [
        {
            "match": {"prefix": prefix},
            "route": {
                "cluster": CORE_GATEWAY,
                "timeout": f"{OAUTH_TIMEOUT_S}s",
                "retry_policy": {"retry_on": "connect-failure,refused-stream", "num_retries": 1},
            },
        }
        for prefix in OAUTH_PREFIXES
    ]
    described = json.dumps(openapi.document(view.contract, view.issuer), separators=(",", ":"))
    routes.insert(0, _described(described))
    host = _host(routes + _wrong_methods(view))
    return {
        **_configuration(EDGE, host),
        "max_direct_response_body_size_bytes": len(described.encode()),
        "request_headers_to_remove": list(_RESERVED),
        "request_headers_to_add": [{**_TRACEPARENT, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}],
        "response_headers_to_remove": list(_GRPC_ANSWER),
    }


def _described(document: str) -> dict[str, Any]:
    """The document of all that may be asked for, which the gateway answers with itself."""
    return {
        "match": {"path": openapi.PATH, "headers": [paths.method("GET")]},
        "direct_response": {"status": 200, "body": {"inline_string": document}},
    }


def matching(rule: HttpRule, zone: str) -> dict[str, Any]:
    """The match of one binding of a method of a zone."""
    return {**paths.match(rule.template), "headers": [paths.method(*rule.verbs(zone))]}


def core(view: View) -> dict[str, Any]:
    """Where a transcoded or native gRPC call goes. Who may make it is the listener's matter."""
    routes: list[dict[str, Any]] = [
        {
            "match": {"path": method.path},
            "route": {
                "cluster": method.workload,
                "timeout": f"{method.deadline_s}s",
                "max_stream_duration": {"grpc_timeout_header_max": f"{method.deadline_s}s"},
                **_retried(method, f"{_LOST},unavailable"),
            },
            # The service is told how long it has; a native caller may have said less.
            "request_headers_to_add": [
                {"header": {"key": "grpc-timeout", "value": f"{method.deadline_ms}m"}, "append_action": "ADD_IF_ABSENT"}
            ],
            "typed_per_filter_config": {
                **rates.limited(view, method),
                # A call that came as JSON is answered as HTTP, whatever became of it on the way.
                **faults.injected(view, method, http=bool(method.http)),
                **({} if decision.needed(method) else decision.skipped()),
            },
        }
        for method in view.methods("private")
    ]
    routes += [
        {
            "match": {"prefix": prefix},
            "route": {
                "cluster": OAUTH_HTTP,
                "timeout": f"{OAUTH_TIMEOUT_S}s",
                # Nothing was asked yet of a replica that is going, or showing a new certificate from now on.
                "retry_policy": {"retry_on": "connect-failure,refused-stream", "num_retries": 2},
            },
            "typed_per_filter_config": {**transcoding.untouched(), **decision.skipped()},
        }
        for prefix in OAUTH_PREFIXES
    ]
    return _configuration(CORE, _host(routes))


def grpc(view: View, workload: str) -> dict[str, Any]:
    """For xds:/// clients: where a call goes, and nothing of its time or its retries.

    gRPC ignores a route's timeout, cuts a stream's duration short and keeps to no retry budget: mesh.channel gives each
    call its deadline and repeats what may be repeated, by the same contract.
    """
    routes: list[dict[str, Any]] = [
        {
            "match": {"path": method.path},
            "route": {"cluster": workload},
            "typed_per_filter_config": faults.injected(view, method),
        }
        for service in view.contract.of_workload(workload)
        for method in service.methods
    ]
    # Health and reflection, which no contract names.
    routes.append({"match": {"prefix": ""}, "route": {"cluster": workload}})
    # gRPC takes up another fault only when something else changes with it: here, the host's name.
    faulty = json.dumps([route.get("typed_per_filter_config") for route in routes])
    name = f"{workload}-{hashlib.sha256(faulty.encode()).hexdigest()[:8]}"
    return {"name": workload, "virtual_hosts": [{"name": name, "domains": ["*"], "routes": routes}]}


def _to_edge(view: View, method: MethodPolicy, rule: HttpRule) -> dict[str, Any]:
    return {
        "route": {"cluster": EDGE_HTTP, "timeout": f"{method.deadline_s}s", **_retried(method, _LOST)},
        "typed_per_filter_config": {**rates.limited(view, method, rule), **faults.injected(view, method, http=True)},
    }


def _to_core(view: View, method: MethodPolicy) -> dict[str, Any]:
    # Repeating among the nodes is the core gateway's business: here only what never reached it is sent again.
    retry = {"retry_on": "connect-failure,refused-stream,reset-before-request", "num_retries": 1}
    filters = rates.limited(view, method)
    if method.scopes:
        filters[JWT_FILTER] = {"@type": f"{_JWT}.PerRouteConfig", "requirement_name": JWT_REQUIREMENT}
    return {
        "route": {"cluster": CORE_GATEWAY, "timeout": f"{method.deadline_s}s", "retry_policy": retry},
        "typed_per_filter_config": filters,
    }


_JWT: Final = "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3"


def _retried(method: MethodPolicy, retry_on: str) -> dict[str, Any]:
    """Only what may be repeated is, on another node, and a slow node's work is hedged rather than thrown away."""
    if not method.idempotent or method.retry_attempts < 2:
        return {}
    return {
        "retry_policy": {
            "retry_on": retry_on,
            "retriable_status_codes": [503],
            "num_retries": method.retry_attempts - 1,
            "per_try_timeout": f"{method.deadline_ms // method.retry_attempts / 1000}s",
            "retry_back_off": {"base_interval": "0.01s", "max_interval": "0.1s"},
            "retry_host_predicate": [
                {
                    "name": "envoy.retry_host_predicates.previous_hosts",
                    "typed_config": {
                        "@type": "type.googleapis.com/"
                        "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                    },
                }
            ],
            "host_selection_retry_max_attempts": 5,
        },
        "hedge_policy": {"hedge_on_per_try_timeout": True},
    }


def _wrong_methods(view: View) -> list[dict[str, Any]]:
    """405 with Allow, for paths that exist (RFC 9110, section 15.5.6)."""
    verbs: dict[str, set[str]] = {openapi.PATH: {"GET"}}
    # Two methods may call the variable of one path by two names.
    spelled: dict[str, str] = {}
    for method in view.contract.methods.values():
        for rule in method.http:
            template = spelled.setdefault(pattern(rule.template), rule.template)
            verbs.setdefault(template, set()).update(rule.verbs(method.zone))
    return [
        {
            "match": paths.match(template),
            "direct_response": {"status": 405},
            "response_headers_to_add": [
                {
                    "header": {"key": "allow", "value": ", ".join(sorted(allowed))},
                    "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                }
            ],
        }
        for template, allowed in sorted(verbs.items(), key=lambda item: order(item[0]))
    ]


def _host(routes: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": "all",
        "domains": ["*"],
        "routes": routes,
        # What is kept of a body to send it again to another node.
        "request_body_buffer_limit": BODY_BYTES_MAX,
    }


def _configuration(name: str, host: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "virtual_hosts": [host], "ignore_port_in_host_matching": True}
