"""Clusters: who stands behind a name, with which certificate, and how much a failing one may cost."""

from collections.abc import Mapping
from typing import Any, Final

from mesh.control.resources import tls
from mesh.control.resources.view import CORE_GATEWAY, View
from mesh.settings import HEALTH_PATH
from mesh.spiffe import SpiffeId

EDGE_HTTP: Final = "edge-http"
OAUTH_HTTP: Final = "oauth-http"
# Percent of live requests. What never reached anybody is sent again, whatever its method or page says of repetition: no
# budget of the contract is meant for that, so it has one of its own.
UNREACHED_BUDGET: Final = 20
_ADS: Final = {"ads": {}, "resource_api_version": "V3"}
_HTTP: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
# A certificate that expires stays on a live connection: connections are renewed well within a leaf's life.
_CONNECTION_LIFE: Final = "900s"
_IDLE: Final = "60s"
# Many streams share one connection, so a frozen peer must be noticed on the connection itself.
_KEEPALIVE: Final = {"interval": "5s", "timeout": "2s"}
# Into the other zone: calls that are under way when it is cut off end after two or three seconds.
_KEEPALIVE_ACROSS: Final = {"interval": "1s", "timeout": "1.5s"}


def http(
    view: View,
    gateway: str,
    name: str,
    peer: SpiffeId,
    *,
    http2: bool,
    budget_percent: int,
    keepalive: Mapping[str, str] = _KEEPALIVE,
) -> dict[str, Any]:
    """A cluster that a gateway speaks HTTP to."""
    options: dict[str, Any] = {"http_protocol_options": {}}
    if http2:
        options = {"http2_protocol_options": {"max_concurrent_streams": 256, "connection_keepalive": dict(keepalive)}}
    return {
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": _ADS, "service_name": name},
        # A frozen process takes connections and never ends the handshake, and the clock of a single try does not run
        # before the connection stands: this must leave time within the shortest deadline for another node.
        "connect_timeout": "0.4s",
        "lb_policy": "LEAST_REQUEST",
        "per_connection_buffer_limit_bytes": 1 << 20,
        "transport_socket": tls.envoy_upstream(view, gateway, peer, "h2" if http2 else "http/1.1"),
        "typed_extension_protocol_options": {
            _HTTP: {
                "@type": f"type.googleapis.com/{_HTTP}",
                "explicit_http_config": options,
                "common_http_protocol_options": {
                    "idle_timeout": _IDLE,
                    "max_connection_duration": _CONNECTION_LIFE,
                    "max_headers_count": 100,
                },
            }
        },
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": 512,
                    "max_pending_requests": 1024,
                    "max_requests": 1024,
                    "retry_budget": {"budget_percent": {"value": budget_percent}, "min_retry_concurrency": 16},
                }
            ]
        },
        # Whom the control plane's probes have not found yet, the traffic itself finds.
        "outlier_detection": {
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 2,
            "consecutive_gateway_failure": 5,
            "enforcing_consecutive_gateway_failure": 100,
            "enforcing_consecutive_5xx": 0,
            "enforcing_success_rate": 0,
            "enforcing_local_origin_success_rate": 0,
            "interval": "0.5s",
            "base_ejection_time": "2s",
            "max_ejection_time": "10s",
            "max_ejection_percent": 50,
        },
        # The control plane never names a workload's endpoints all unhealthy: below that, nobody needs to guess.
        "common_lb_config": {
            "healthy_panic_threshold": {"value": 0},
            "update_merge_window": "0s",
            # A canary's share is the weight of its locality.
            "locality_weighted_lb_config": {},
        },
        "upstream_connection_options": {"tcp_keepalive": {"keepalive_probes": 3, "keepalive_time": 5}},
    }


def core_gateway(view: View, gateway: str) -> dict[str, Any]:
    """The one way from the public zone into the private one.

    The control plane of the public zone probes nothing private, so the gateway itself asks: once the way is cut, calls
    are refused at once instead of each waiting for a connection in vain. Those that are under way end when keepalive
    notices the connection: Envoy closes none because its host has turned unhealthy.
    """
    peer = view.spiffe_id("private", CORE_GATEWAY)
    return {
        **http(
            view, gateway, CORE_GATEWAY, peer, http2=True, budget_percent=UNREACHED_BUDGET, keepalive=_KEEPALIVE_ACROSS
        ),
        "health_checks": [
            {
                "http_health_check": {"path": HEALTH_PATH, "host": CORE_GATEWAY, "codec_client_type": "HTTP2"},
                # Two in a row within two seconds: one slow answer of a busy machine is no partition.
                "timeout": "0.6s",
                "interval": "0.5s",
                "unhealthy_edge_interval": "0.1s",
                "unhealthy_interval": "0.5s",
                "no_traffic_interval": "0.5s",
                "no_traffic_healthy_interval": "0.5s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
            }
        ],
        "ignore_health_on_host_removal": True,
    }


def grpc(view: View, workload: str) -> dict[str, Any]:
    """A cluster of xds:/// clients: only what gRPC honours; what it would accept and ignore is left out."""
    return {
        "name": workload,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": _ADS, "service_name": workload},
        "lb_policy": "ROUND_ROBIN",
        "transport_socket": tls.grpc_upstream(view.spiffe_id(view.zone, workload)),
        # Of one client: as many as one server works on at a time (concurrent_calls_max).
        "circuit_breakers": {"thresholds": [{"max_requests": 512}]},
        # gRFC A50.
        "outlier_detection": {
            "interval": "1s",
            "base_ejection_time": "2s",
            "max_ejection_time": "10s",
            "max_ejection_percent": 50,
            "failure_percentage_threshold": 60,
            "enforcing_failure_percentage": 100,
            "failure_percentage_request_volume": 10,
            "failure_percentage_minimum_hosts": 2,
            "enforcing_success_rate": 0,
        },
    }
