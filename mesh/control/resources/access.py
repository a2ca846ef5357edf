"""Who may ask the core gateway for what (RBAC), compiled from bindings and callers."""

from collections.abc import Sequence
from typing import Any, Final

from mesh.contract import MethodPolicy
from mesh.control.resources import paths
from mesh.control.resources.routes import OAUTH_PREFIXES, OAUTH_TOKEN_PATH
from mesh.control.resources.view import EDGE_GATEWAY, GATEWAYS, View

_TYPE: Final = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"


def filter_(view: View) -> dict[str, Any]:
    """Deny all but: the edge gateway what has an HTTP binding, and a workload the methods that name it as a caller."""
    pages = [_path({"prefix": prefix}) for prefix in OAUTH_PREFIXES]
    outside = [*_bindings(view.methods("private")), *pages]
    policies = {EDGE_GATEWAY: _policy(str(view.spiffe_id("public", EDGE_GATEWAY)), outside)}
    for caller in callers(view):
        named = [each for each in view.methods("private") if caller in each.callers]
        native = [_path({"exact": each.path}) for each in named]
        # Its certificate proves it to the authorization server (RFC 8705).
        allowed = [*native, *_bindings(named), _path({"exact": OAUTH_TOKEN_PATH})]
        policies[caller] = _policy(str(view.spiffe_id("private", caller)), allowed)
    return {
        "name": "envoy.filters.http.rbac",
        "typed_config": {"@type": _TYPE, "rules": {"action": "ALLOW", "policies": policies}},
    }


def callers(view: View) -> list[str]:
    """Private workloads that a method names, that are no gateway and no service with a way of its own (xds:///)."""
    named = {caller for method in view.methods("private") for caller in method.callers}
    return sorted(named - GATEWAYS - set(view.grpc_workloads()))


def _bindings(methods: Sequence[MethodPolicy]) -> list[dict[str, Any]]:
    return [
        {"and_rules": {"rules": [{"header": paths.method(rule.verb)}, _path(paths.matcher(rule.template))]}}
        for method in methods
        for rule in method.http
    ]


def _path(matcher: dict[str, Any]) -> dict[str, Any]:
    return {"url_path": {"path": matcher}}


def _policy(peer: str, permissions: list[dict[str, Any]]) -> dict[str, Any]:
    principal = {"authenticated": {"principal_name": {"exact": peer}}}
    return {"permissions": [{"or_rules": {"rules": permissions}}], "principals": [principal]}
