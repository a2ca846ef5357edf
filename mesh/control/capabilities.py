"""What a data plane would accept and ignore, or refuse: each measured case, looked for before anything is pushed.

Every row is shown against the real program by tests/integration/control/test_capabilities.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from mesh.control.history import Configuration
from mesh.control.snapshot import CLUSTER, LISTENER, ROUTES

_FILTER: Final = "type.googleapis.com/envoy.extensions.filters.http."
_ROUTE: Final = "virtual_hosts/*/routes/*"
_ACTION: Final = f"{_ROUTE}/route"
_LIMIT: Final = f"{_ROUTE}/typed_per_filter_config/envoy.filters.http.local_ratelimit"
_HTTP_FILTER: Final = "api_listener/api_listener/http_filters/*/typed_config/@type"
_OWN_DEADLINE: Final = "mesh.channel gives each call the contract's deadline"
_RETRY_ON: Final = (
    *("5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "refused-stream"),
    *("envoy-ratelimited", "retriable-4xx", "retriable-status-codes", "retriable-headers"),
    *("http3-post-connect-failure", "cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"),
)


class Effect(StrEnum):
    IGNORED = "is accepted and ignored"
    SHORTENED = "is accepted and cut short"
    REFUSED = "is refused"


@dataclass(frozen=True, slots=True)
class Capability:
    """What a data plane does with one setting. `path` leads to it within a resource; * stands for each element."""

    name: str
    kind: str
    path: str
    effect: Effect
    remedy: str
    # The values that it concerns; empty: any.
    values: frozenset[str] = frozenset()
    # What must stand beside the setting for it to count: a path from where the setting stands.
    unless: str = ""
    # Of a list of words: those that it knows. What is beyond them, it concerns.
    words: frozenset[str] = frozenset()

    def concerns(self, value: Any, beside: Any) -> bool:
        """Whether a setting of this value, in `beside`, is one of these."""
        if self.words:
            return not self.words.issuperset(str(value).split(","))
        if self.unless and any(_at(beside, self.unless.split("/"))):
            return False
        return not self.values or value in self.values


# gRPC 1.85.

GRPC: Final = (
    Capability("route timeout", ROUTES, f"{_ACTION}/timeout", Effect.IGNORED, _OWN_DEADLINE),
    # It counts from a clock that lags behind the one that ends the call, by one to two seconds as the process started
    # (grpc/grpc#34547).
    Capability("stream duration", ROUTES, f"{_ACTION}/max_stream_duration", Effect.SHORTENED, _OWN_DEADLINE),
    Capability(
        "stream duration for all",
        LISTENER,
        "api_listener/api_listener/common_http_protocol_options/max_stream_duration",
        Effect.SHORTENED,
        _OWN_DEADLINE,
    ),
    Capability(
        "prefix rewrite", ROUTES, f"{_ACTION}/prefix_rewrite", Effect.IGNORED, "a method's path is its name: call it so"
    ),
    Capability(
        "retry on the next priority",
        ROUTES,
        f"{_ACTION}/retry_policy/retry_priority",
        Effect.IGNORED,
        "the next priority is asked when nobody of the first is left: the control plane's probes see to it",
    ),
    Capability("mirroring", ROUTES, f"{_ACTION}/request_mirror_policies", Effect.IGNORED, "mirror at a gateway"),
    Capability(
        "ejection after consecutive errors",
        CLUSTER,
        "outlier_detection/consecutive_5xx",
        Effect.IGNORED,
        "state failure_percentage_threshold",
    ),
    Capability(
        "retry budget",
        CLUSTER,
        "circuit_breakers/thresholds/*/retry_budget",
        Effect.IGNORED,
        "mesh.channel keeps the contract's budget",
    ),
    Capability(
        "active health checks", CLUSTER, "health_checks", Effect.IGNORED, "the control plane probes, and tells by EDS"
    ),
    Capability(
        "balancing",
        CLUSTER,
        "lb_policy",
        Effect.REFUSED,
        "ROUND_ROBIN or RING_HASH",
        frozenset({"LEAST_REQUEST", "RANDOM", "MAGLEV"}),
    ),
    Capability("discovery", CLUSTER, "type", Effect.REFUSED, "EDS or LOGICAL_DNS", frozenset({"STRICT_DNS", "STATIC"})),
    Capability(
        "filter",
        LISTENER,
        _HTTP_FILTER,
        Effect.REFUSED,
        "mesh.guard and the token rule do it in the server",
        frozenset(
            {
                f"{_FILTER}jwt_authn.v3.JwtAuthentication",
                f"{_FILTER}ext_authz.v3.ExtAuthz",
                f"{_FILTER}local_ratelimit.v3.LocalRateLimit",
            }
        ),
    ),
)

# Envoy 1.40. What it refuses, it says itself before a push (`envoy --mode validate`); here stands what it passes over.
ENVOY: Final = (
    Capability(
        "rate limit that is not enabled",
        ROUTES,
        f"{_LIMIT}/token_bucket",
        Effect.IGNORED,
        "state filter_enabled: without it, no request is looked at",
        unless="filter_enabled",
    ),
    Capability(
        "rate limit that is not enforced",
        ROUTES,
        f"{_LIMIT}/token_bucket",
        Effect.IGNORED,
        "state filter_enforced: without it, requests over the limit are counted and let through",
        unless="filter_enforced",
    ),
    Capability(
        "hedging without a limit for each try",
        ROUTES,
        f"{_ACTION}/hedge_policy",
        Effect.IGNORED,
        "state retry_policy.per_try_timeout: a second try is hedged when it ends",
        unless="retry_policy/per_try_timeout",
    ),
    Capability(
        "retry on a word that is none",
        ROUTES,
        f"{_ACTION}/retry_policy/retry_on",
        Effect.IGNORED,
        "write the conditions as Envoy's router does, without spaces",
        words=frozenset(_RETRY_ON),
    ),
    Capability(
        "ejection after local errors",
        CLUSTER,
        "outlier_detection/consecutive_local_origin_failure",
        Effect.IGNORED,
        "state split_external_local_origin_errors",
        unless="split_external_local_origin_errors",
    ),
)


def refusals(source: Configuration, capabilities: tuple[Capability, ...]) -> list[str]:
    """Why a configuration must not be pushed to data planes with these capabilities; empty when nothing stands against.

    For any data plane: what refers to something that is not there.
    """
    found = []
    for capability in capabilities:
        for name, resource in source[capability.kind].items():
            *way, setting = capability.path.split("/")
            for beside in _at(resource, way):
                for value in _at(beside, [setting]):
                    if not capability.concerns(value, beside):
                        continue
                    shown = capability.values or capability.words
                    what = f"{capability.path} = {value}" if shown else capability.path
                    found.append(f"{name}: {what} {capability.effect} by this data plane; {capability.remedy}")
    return found + list(_dangling(source))


def _dangling(source: Configuration) -> Iterator[str]:
    """Envoy takes a route to a cluster that nobody has told it of, and answers 503 for it."""
    for name, route in source[ROUTES].items():
        named = [*_at(route, f"{_ACTION}/cluster".split("/"))]
        named += _at(route, f"{_ACTION}/weighted_clusters/clusters/*/name".split("/"))
        for cluster in sorted(set(named) - source[CLUSTER].keys()):
            yield f"{name}: a route leads to the cluster {cluster}, which is not there; add it, or take the route away"
    manager = ("filter_chains/*/filters/*/typed_config", "api_listener/api_listener")
    for name, listener in source[LISTENER].items():
        for path in manager:
            for routes in _at(listener, f"{path}/rds/route_config_name".split("/")):
                if routes not in source[ROUTES]:
                    yield f"{name}: the listener's routes {routes} are not there; add them"


def _at(value: Any, path: list[str]) -> Iterator[Any]:
    if not path:
        yield value
    elif path[0] == "*" and isinstance(value, list):
        for each in value:
            yield from _at(each, path[1:])
    elif isinstance(value, dict) and path[0] in value:
        yield from _at(value[path[0]], path[1:])
