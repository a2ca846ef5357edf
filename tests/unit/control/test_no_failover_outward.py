"""What handles personal data is never served from the public zone: no snapshot holds such an endpoint."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from envoy.config.endpoint.v3 import endpoint_pb2
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mesh.contract import load
from mesh.contract.model import DataClass
from mesh.control.compile import GRPC, configuration, gateway, packed, with_endpoints
from mesh.control.health import State
from mesh.control.overrides import Overrides, Split
from mesh.control.registry import read
from mesh.control.resources.view import View
from mesh.control.snapshot import ENDPOINTS, ROUTES

WORKLOADS = sorted({service.workload for service in load().services.values()} | {"edge-gateway", "core-gateway"})
PUBLIC_PORTS, PRIVATE_PORTS = 20_000, 30_000

ROW = st.tuples(
    st.sampled_from(WORKLOADS),
    # Any workload in any zone, also where it does not belong.
    st.sampled_from(["public", "private"]),
    st.sampled_from(["grpc", "http", "https"]),
    st.sampled_from(list(State)),
    st.sampled_from(["", "a", "b"]),
)


@given(rows=st.lists(ROW, max_size=14), percent=st.integers(min_value=1, max_value=99))
@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_snapshot_leads_sensitive_calls_into_the_public_zone(
    tmp_path: Path, rows: list[tuple[str, str, str, State, str]], percent: int
) -> None:
    processes, states = [], {}
    for number, (workload, zone, listen, state, sub_zone) in enumerate(rows):
        port = number + (PUBLIC_PORTS if zone == "public" else PRIVATE_PORTS)
        node = f"{workload}-{number}"
        states[node] = state
        listens = [{"name": listen, "address": "127.0.0.1", "port": port, "protocol": "grpc"}]
        place = {"zone": zone, "sub_zone": sub_zone}
        processes.append({"workload": workload, "node": node, "listens": listens, **place})
    table = tmp_path / "topology.json"
    table.write_text(json.dumps({"processes": processes}))
    splits = tuple(Split(workload, tuple(states), percent, 1e12) for workload in WORKLOADS if states)
    for zone in ("public", "private"):
        view = View("isthmus.internal", zone, load(), read(table, zone), "https://i", "a", tmp_path)
        for group in (gateway(zone), GRPC):
            source = configuration(view, group)
            snapshot = with_endpoints(
                replace(view, overrides=Overrides(splits=splits)), packed(source), lambda node: states[node]
            )
            told = [snapshot.seen_from(sub_zone) for sub_zone in ("", "a", "b")]
            for cluster in _sensitive_clusters(source):
                ports = [port for seen in told for port in _ports(seen, cluster)]
                assert all(port >= PRIVATE_PORTS for port in ports), (zone, group, cluster)


def _sensitive_clusters(source: Any) -> set[str]:
    """Clusters to which a route leads calls of a private method or of one that answers PERSONAL data or above."""
    contract = load()
    sensitive = [m for m in contract.methods.values() if m.zone == "private" or m.answer_class >= DataClass.PERSONAL]
    paths = {method.path for method in sensitive}
    templates = {rule.template for method in sensitive for rule in method.http}
    found = set()
    for routes in source[ROUTES].values():
        for route in routes["virtual_hosts"][0]["routes"]:
            match, cluster = route["match"], route.get("route", {}).get("cluster")
            by_variable = "safe_regex" in match and cluster != "edge-http"
            if cluster and (match.get("path", "") in paths | templates or by_variable):
                found.add(cluster)
    return found


def _ports(snapshot: Any, cluster: str) -> list[int]:
    message = endpoint_pb2.ClusterLoadAssignment()
    snapshot.resources[ENDPOINTS][cluster].packed.Unpack(message)
    return [
        each.endpoint.address.socket_address.port_value
        for locality in message.endpoints
        for each in locality.lb_endpoints
    ]


def test_the_check_sees_the_clusters_that_matter() -> None:
    view = View("isthmus.internal", "public", load(), (), "https://i", "a", Path("/"))
    assert _sensitive_clusters(configuration(view, "edge-gateway")) == {"core-gateway"}
    private = View("isthmus.internal", "private", load(), (), "https://i", "a", Path("/"))
    assert {"orders", "payments", "members"} <= _sensitive_clusters(configuration(private, "core-gateway"))
