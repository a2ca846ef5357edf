"""Envoy's bootstrap: who it is, where its control plane is, and its certificate. All else comes over ADS."""

import sysconfig
from pathlib import Path
from typing import Any

import yaml

from deploy.local.errors import ToolMissing
from deploy.local.settings import Home
from deploy.local.topology import Listen, Process
from mesh import fallback
from mesh.settings import HEALTH_PATH

TLS_1_3 = {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"}
TYPE_SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 (a type's name)
TYPE_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
TYPE_HTTP = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
TYPE_MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
TYPE_ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
TYPE_CONNECTIONS = (
    "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
)
DRAIN_S = 8
# From all clients together; more are closed at once.
CONNECTIONS_MAX = 10_000


def binary() -> Path:
    """The program by its path: two wheels write envoy/__init__.py, so the package's own functions may be missing.

    Raises:
        ToolMissing: the wheel is not installed.
    """
    path = Path(sysconfig.get_path("platlib")) / "envoy" / "_bin" / "envoy"
    if not path.exists():
        raise ToolMissing("Envoy is not installed", "Run `make setup`")
    return path


def command(home: Home, name: str) -> tuple[str, ...]:
    return (
        str(binary()),
        *("-c", str(home.run(name) / "envoy.yaml")),
        *("--concurrency", "1"),
        "--disable-hot-restart",
        *("--drain-time-s", str(DRAIN_S)),
        *("--log-level", "warning"),
        *("--log-format", '{"timestamp":"%Y-%m-%dT%H:%M:%S.%e%z","level":"%l","logger":"%n","event":"%j"}'),
    )


def admin_socket(home: Home, name: str) -> Path:
    return home.sockets(name) / "admin.sock"


def fallback_socket(home: Home, name: str) -> Path:
    return home.sockets(name) / fallback.SOCKET


def prepare(home: Home, process: Process, control: str, trust_domain: str) -> None:
    """Write envoy.yaml and the two SDS files into run/<process>/. `control` is the control plane's host:port."""
    run, sockets = home.run(process.name), home.sockets(process.name)
    for directory in (run, sockets):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    identity = home.identity(process.name)
    # Envoy follows a swap of the link `live` by watching the directory in which it is renamed.
    watched = {"path": str(identity.parent)}
    certificate = {"certificate_chain": _file(identity / "svid.pem"), "private_key": _file(identity / "key.pem")}
    _write(run / "sds-identity.yaml", _secret("identity", tls_certificate=certificate | {"watched_directory": watched}))
    roots = {"trusted_ca": _file(identity / "bundle.pem"), "watched_directory": watched}
    _write(run / "sds-bundle.yaml", _secret("bundle", validation_context=roots))
    _write(run / "envoy.yaml", bootstrap(home, process, control, trust_domain))


def bootstrap(home: Home, process: Process, control: str, trust_domain: str) -> dict[str, Any]:
    run = home.run(process.name)
    host, _, port = control.rpartition(":")
    secrets = {name: _sds(run / f"sds-{name}.yaml", name) for name in ("identity", "bundle")}
    control_id = f"spiffe://{trust_domain}/{process.zone}/control-{process.zone}"
    upstream = {
        "@type": f"{TYPE_TLS}.UpstreamTlsContext",
        "sni": "localhost",
        "common_tls_context": {
            "tls_params": TLS_1_3,
            "alpn_protocols": ["h2"],
            "tls_certificate_sds_secret_configs": [secrets["identity"]],
            "combined_validation_context": {
                "default_validation_context": {
                    "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": control_id}}]
                },
                "validation_context_sds_secret_config": secrets["bundle"],
            },
        },
    }
    ads = {
        "name": "ads",
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": _endpoint("ads", {"socket_address": {"address": host, "port_value": int(port)}}),
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": upstream},
        # A control plane that froze is noticed, and the stream opened again.
        "typed_extension_protocol_options": _http2({"connection_keepalive": {"interval": "10s", "timeout": "5s"}}),
    }
    # Asked only by an Envoy that has started and not reached its control plane yet.
    standby = {
        "name": "fallback",
        "type": "STATIC",
        "load_assignment": _endpoint("fallback", {"pipe": {"path": str(fallback_socket(home, process.name))}}),
        "typed_extension_protocol_options": _http2({}),
    }
    pipe = {"pipe": {"path": str(admin_socket(home, process.name)), "mode": 0o600}}
    admin = {"name": "admin", "type": "STATIC", "load_assignment": _endpoint("admin", pipe)}
    metrics = process.listen("metrics")
    assert metrics is not None
    streams = [{"envoy_grpc": {"cluster_name": name}} for name in ("ads", "fallback")]
    return {
        "node": {"id": process.node, "cluster": process.workload, "locality": process.locality},
        "admin": {"address": pipe},
        "dynamic_resources": {
            "ads_config": {"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": streams},
            "cds_config": {"ads": {}, "resource_api_version": "V3"},
            "lds_config": {"ads": {}, "resource_api_version": "V3"},
        },
        "static_resources": {"clusters": [ads, standby, admin], "listeners": [_metrics_listener(metrics, secrets)]},
        "layered_runtime": {
            "layers": [{"name": "start", "static_layer": {"envoy.restart_features.xds_failover_support": True}}]
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {"@type": TYPE_CONNECTIONS, "max_active_downstream_connections": CONNECTIONS_MAX},
                }
            ]
        },
    }


def _metrics_listener(listen: Listen, secrets: dict[str, Any]) -> dict[str, Any]:
    """Envoy's own figures and whether it is ready, over mTLS: two paths of the admin interface, and no other."""
    downstream = {
        "@type": f"{TYPE_TLS}.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "tls_params": TLS_1_3,
            "tls_certificate_sds_secret_configs": [secrets["identity"]],
            "validation_context_sds_secret_config": secrets["bundle"],
        },
    }
    behind = {"/metrics": "/stats/prometheus", HEALTH_PATH: "/ready"}
    routes = [
        {"match": {"path": path}, "route": {"cluster": "admin", "prefix_rewrite": admin}}
        for path, admin in behind.items()
    ]
    manager = {
        "@type": TYPE_MANAGER,
        "stat_prefix": "metrics",
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": TYPE_ROUTER}}],
        "route_config": {"virtual_hosts": [{"name": "metrics", "domains": ["*"], "routes": routes}]},
    }
    return {
        "name": "metrics",
        "address": {"socket_address": {"address": listen.address, "port_value": listen.port}},
        "filter_chains": [
            {
                "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": downstream},
                "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}],
            }
        ],
    }


def _http2(options: dict[str, Any]) -> dict[str, Any]:
    config = {"http2_protocol_options": options}
    name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {name: {"@type": TYPE_HTTP, "explicit_http_config": config}}


def _endpoint(cluster: str, address: dict[str, Any]) -> dict[str, Any]:
    return {"cluster_name": cluster, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}


def _sds(path: Path, name: str) -> dict[str, Any]:
    source = {"path_config_source": {"path": str(path)}, "resource_api_version": "V3"}
    return {"name": name, "sds_config": source}


def _secret(name: str, **content: Any) -> dict[str, Any]:
    return {"resources": [{"@type": TYPE_SECRET, "name": name, **content}]}


def _file(path: Path) -> dict[str, str]:
    return {"filename": str(path)}


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False))
