"""What Envoy and gRPC clients are told before their control plane tells them the rest."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.local import envoy, xds_bootstrap
from deploy.local.settings import Home
from deploy.local.topology import Listen, Process

CONTROL = "127.0.0.1:18406"


@pytest.fixture
def told(tmp_path: Path) -> dict[str, Any]:
    """The bootstrap of an edge gateway."""
    listens = (Listen("https", "127.0.0.1", 18400, "https"), Listen("metrics", "127.0.0.1", 18450, "https"))
    process = Process("edge-gateway", "public", "edge-gateway", "edge-gateway", None, listens)
    envoy.prepare(Home(tmp_path), process, CONTROL, "isthmus.internal")
    loaded: dict[str, Any] = yaml.safe_load((tmp_path / "run" / "edge-gateway" / "envoy.yaml").read_text())
    return loaded


def values(tree: Any, key: str) -> Iterator[Any]:
    """Every value of `key` anywhere in a tree of dictionaries and lists."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name == key:
                yield value
            yield from values(value, key)
    if isinstance(tree, list):
        for value in tree:
            yield from values(value, key)


def test_the_admin_interface_of_envoy_has_no_port(told: dict[str, Any]) -> None:
    assert told["admin"]["address"]["pipe"]["mode"] == 0o600
    assert "socket_address" not in told["admin"]["address"]


def test_envoy_speaks_tls_1_3_alone_from_the_first_byte(told: dict[str, Any]) -> None:
    contexts = list(values(told, "common_tls_context"))
    assert len(contexts) == 2
    assert [context["tls_params"] for context in contexts] == [envoy.TLS_1_3] * 2


def test_envoy_obeys_the_control_plane_of_its_own_zone_alone(told: dict[str, Any]) -> None:
    (names,) = values(told, "match_typed_subject_alt_names")
    assert [name["matcher"]["exact"] for name in names] == ["spiffe://isthmus.internal/public/control-public"]


def test_envoy_asks_for_what_was_good_last_only_after_its_control_plane(told: dict[str, Any]) -> None:
    streams = told["dynamic_resources"]["ads_config"]["grpc_services"]
    assert [stream["envoy_grpc"]["cluster_name"] for stream in streams] == ["ads", "fallback"]
    assert list(values(told, "envoy.restart_features.xds_failover_support")) == [True]


def test_envoys_figures_and_health_are_for_those_with_a_certificate_and_nothing_else_is_behind_that_port(
    told: dict[str, Any],
) -> None:
    (listener,) = told["static_resources"]["listeners"]
    assert list(values(listener, "require_client_certificate")) == [True]
    (routes,) = values(listener, "routes")
    assert {route["match"]["path"]: route["route"]["prefix_rewrite"] for route in routes} == {
        "/metrics": "/stats/prometheus",
        "/-/health": "/ready",
    }


def test_envoy_follows_a_rotated_certificate(told: dict[str, Any], tmp_path: Path) -> None:
    run = tmp_path / "run" / "edge-gateway"
    for name in ("identity", "bundle"):
        secret = yaml.safe_load((run / f"sds-{name}.yaml").read_text())
        assert list(values(secret, "watched_directory")) == [{"path": str(run / "identity")}]
        assert secret["resources"][0]["name"] == name


def test_a_grpc_client_asks_its_control_plane_with_its_own_certificate(tmp_path: Path) -> None:
    home = Home(tmp_path)
    process = Process("orders-1", "private", "orders", "orders-1")
    xds_bootstrap.write_xds_bootstrap(home, process, CONTROL)
    told = json.loads((home.run("orders-1") / "xds-bootstrap.json").read_text())
    server, standby = told["xds_servers"]
    # Whoever starts while it is away asks the fallback of its own process.
    assert standby["server_uri"] == f"unix:{home.sockets('orders-1') / 'xds.sock'}"
    assert server["server_uri"] == CONTROL
    assert [creds["type"] for creds in server["channel_creds"]] == ["tls"]
    assert "ignore_resource_deletion" in server["server_features"]
    provider = told["certificate_providers"][xds_bootstrap.CERTIFICATE_PROVIDER]
    assert provider["config"]["certificate_file"] == str(home.identity("orders-1") / "svid.pem")
    assert told["node"] == {"id": "orders-1", "cluster": "orders", "locality": {"zone": "private"}}
