"""Listeners: what a gateway takes from outside, and what a call passes before it is routed."""

from typing import Any, Final

from mesh.control.registry import Endpoint
from mesh.control.resources import access, decision, faults, problems, rates, tls, transcoding
from mesh.control.resources.routes import CORE, EDGE, JWT_FILTER, JWT_REQUIREMENT
from mesh.control.resources.view import BODY_BYTES_MAX, CORE_GATEWAY, EDGE_GATEWAY, Patience, View
from mesh.settings import HEALTH_PATH

_TYPE: Final = "type.googleapis.com/envoy.extensions.filters."
_ADS: Final = {"ads": {}, "resource_api_version": "V3"}
# The authorization server lists a new key twice as long before it signs, also in a hurry.
_JWKS_REFRESH: Final = "5s"
_CLOCK_SKEW_S: Final = 10


def edge(view: View, listen: Endpoint) -> dict[str, Any]:
    """HTTPS for the public: HTTP/1.1 and HTTP/2, no client certificate, nothing believed that it says of itself."""
    filters = [
        _reserved_headers(),
        _trace_context(),
        *rates.of_the_public(),
        faults.filter_(),
        _access_token(view),
        _filter("buffer", "buffer.v3.Buffer", max_request_bytes=BODY_BYTES_MAX),
        _router(),
    ]
    manager = {
        **_manager(EDGE, filters, view.patience),
        "forward_client_cert_details": "SANITIZE",
        "preserve_external_request_id": False,
        "always_set_request_id_in_response": True,
    }
    return _listener(EDGE, listen, tls.envoy_downstream_public(view, EDGE_GATEWAY), manager)


def core(view: View, listen: Endpoint) -> dict[str, Any]:
    """mTLS for the edge gateway and the few callers of the private zone that have no other way in."""
    peers = [view.spiffe_id("public", EDGE_GATEWAY)]
    peers += [view.spiffe_id("private", caller) for caller in access.callers(view)]
    filters = [
        _health(),
        access.filter_(view),
        *transcoding.filters(view),
        # Behind the transcoder: only then a call has its method's path, and with it the route that says how often.
        rates.filter_(),
        faults.filter_(),
        decision.filter_(),
        _router(),
    ]
    manager = {
        **_manager(CORE, filters, view.patience),
        # The service sees who came through, in the gateway's words.
        "forward_client_cert_details": "SANITIZE_SET",
        "set_current_client_cert_details": {"uri": True},
        # The edge gateway's request id stays the request's name.
        "preserve_external_request_id": True,
        "xff_num_trusted_hops": 1,
    }
    return _listener(CORE, listen, tls.envoy_downstream_mutual(view, CORE_GATEWAY, peers), manager)


def grpc(workload: str) -> dict[str, Any]:
    """The listener of an xds:///<workload> client."""
    manager = {
        "@type": _TYPE + "network.http_connection_manager.v3.HttpConnectionManager",
        "rds": {"config_source": _ADS, "route_config_name": workload},
        "http_filters": [faults.filter_(), _filter("router", "router.v3.Router")],
    }
    return {"name": workload, "api_listener": {"api_listener": manager}}


def _listener(name: str, listen: Endpoint, transport: dict[str, Any], manager: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "address": {"socket_address": {"address": listen.address, "port_value": listen.port}},
        "per_connection_buffer_limit_bytes": BODY_BYTES_MAX,
        "tcp_backlog_size": 1024,
        "filter_chains": [
            {
                "transport_socket": transport,
                "transport_socket_connect_timeout": "5s",
                "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}],
            }
        ],
    }


def _manager(name: str, filters: list[dict[str, Any]], patience: Patience) -> dict[str, Any]:
    return {
        "@type": _TYPE + "network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "codec_type": "AUTO",
        "rds": {"config_source": _ADS, "route_config_name": name},
        "http_filters": filters,
        "local_reply_config": problems.local_replies(),
        "access_log": [_failures()],
        "server_name": "isthmus",
        "use_remote_address": True,
        # Nobody is trusted for an address of a private range: here even 127.0.0.1 is the public. An empty list would
        # mean all private ranges; this one address is of documentation (RFC 5737), nobody's.
        "internal_address_config": {"cidr_ranges": [{"address_prefix": "192.0.2.0", "prefix_len": 32}]},
        "generate_request_id": True,
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "strip_any_host_port": False,
        # A client that is slow to ask, slow to read or silent gives its place up.
        "request_headers_timeout": f"{patience.head_s}s",
        "request_timeout": f"{patience.request_s}s",
        "stream_idle_timeout": f"{patience.silence_s}s",
        "delayed_close_timeout": "1s",
        "drain_timeout": "5s",
        "max_request_headers_kb": 16,
        "common_http_protocol_options": {
            "idle_timeout": "60s",
            "max_connection_duration": "3600s",
            "max_headers_count": 64,
            "headers_with_underscores_action": "REJECT_REQUEST",
        },
        "http2_protocol_options": {
            "max_concurrent_streams": 128,
            "initial_stream_window_size": 64 << 10,
            "initial_connection_window_size": 1 << 20,
        },
    }


def _health() -> dict[str, Any]:
    """Says to whom the listener lets in whether this gateway is there, and that it is not while it drains."""
    path = {"name": ":path", "string_match": {"exact": HEALTH_PATH}}
    return _filter("health_check", "health_check.v3.HealthCheck", pass_through_mode=False, headers=[path])


def _reserved_headers() -> dict[str, Any]:
    """Names under which the parts of the mesh speak to each other are taken from what comes from outside."""
    prefixes = ("x-isthmus-", "x-envoy-", "grpc-")
    mutations = [{"remove_on_match": {"key_matcher": {"prefix": prefix}}} for prefix in prefixes]
    return _filter("header_mutation", "header_mutation.v3.HeaderMutation", mutations={"request_mutations": mutations})


def _trace_context() -> dict[str, Any]:
    """The public may name its trace and may not have it sampled: the flag is cleared (the route puts it back so)."""
    cleared = {
        "pattern": {"regex": "^00-(.*)-[0-9a-f]+$"},
        "substitution": "00-\\1-00",
    }
    rule = {
        "header": "traceparent",
        "on_header_present": {"metadata_namespace": "isthmus", "key": "traceparent", "regex_value_rewrite": cleared},
        "remove": True,
    }
    return _filter("header_to_metadata", "header_to_metadata.v3.Config", request_rules=[rule])


def _access_token(view: View) -> dict[str, Any]:
    """Checks tokens (RFC 9068) where a route requires one; the called service checks them again."""
    uri = {"uri": f"https://{CORE_GATEWAY}/oauth/jwks.json", "cluster": CORE_GATEWAY, "timeout": "2s"}
    provider = {
        "issuer": view.issuer,
        "audiences": [view.audience],
        "require_expiration": True,
        "forward": True,
        "clock_skew_seconds": _CLOCK_SKEW_S,
        "from_headers": [
            {"name": "Authorization", "value_prefix": "Bearer "},
            {"name": "Authorization", "value_prefix": "DPoP "},
        ],
        "remote_jwks": {
            "http_uri": uri,
            "cache_duration": _JWKS_REFRESH,
            # Keys are fetched beside the traffic, and the gateway opens its port without waiting for them.
            "async_fetch": {"fast_listener": True, "failed_refetch_duration": "1s"},
        },
        "jwt_cache_config": {"jwt_cache_size": 1000},
    }
    return {
        "name": JWT_FILTER,
        "typed_config": {
            "@type": _TYPE + "http.jwt_authn.v3.JwtAuthentication",
            "providers": {"oauth": provider},
            "requirement_map": {JWT_REQUIREMENT: {"provider_name": "oauth"}},
        },
    }


def _failures() -> dict[str, Any]:
    """A line for each request that failed here, none for the others."""
    value = {"default_value": 500, "runtime_key": "isthmus.access_log.status_min"}
    line = {
        "event": "request failed",
        "status": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
        "detail": "%RESPONSE_CODE_DETAILS%",
        "cluster": "%UPSTREAM_CLUSTER%",
        "upstream": "%UPSTREAM_HOST%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "duration_ms": "%DURATION%",
        "method": "%REQ(:METHOD)%",
        "request_id": "%REQ(X-REQUEST-ID)%",
        "timestamp": "%START_TIME%",
    }
    return {
        "name": "envoy.access_loggers.stdout",
        "filter": {"status_code_filter": {"comparison": {"op": "GE", "value": value}}},
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
            "log_format": {"json_format": line},
        },
    }


def _router() -> dict[str, Any]:
    # How Envoy counts and times among its own is nobody else's business.
    return _filter("router", "router.v3.Router", suppress_envoy_headers=True)


def _filter(name: str, kind: str, **settings: Any) -> dict[str, Any]:
    return {"name": f"envoy.filters.http.{name}", "typed_config": {"@type": f"{_TYPE}http.{kind}", **settings}}
