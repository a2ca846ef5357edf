"""The same drills on Kubernetes: what they break there, that it ends by itself, and what is refused."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes import client

from chaos.drill import cluster, custody, library, spec, target
from chaos.drill.cluster import Cluster
from chaos.drill.errors import TooWide
from chaos.drill.loop import Loop
from chaos.drill.machine import OVERRIDES
from chaos.drill.session import Session
from deploy.local import links
from deploy.local.door import LAUNCHER, Refused
from deploy.local.errors import NotRunning
from deploy.local.settings import Home, LauncherSettings
from tests.unit.chaos.kube_api import KubeApi, serving

PODS = {
    "edge-1": "edge",
    "edge-2": "edge",
    "edge-3": "edge",
    "edge-4": "edge",
    "edge-gateway-0": "edge-gateway",
    "core-gateway-0": "core-gateway",
    "orders-1": "orders",
    "orders-2": "orders",
}


@pytest.fixture
def api() -> KubeApi:
    api = KubeApi()
    for name, component in PODS.items():
        api.pod(name, component)
    api.add("pods", "somebody-elses", {"app.kubernetes.io/component": "edge"})
    return api


@pytest.fixture
def backend(api: KubeApi) -> Iterator[Cluster]:
    with serving(api) as host, client.ApiClient(client.Configuration(host=host)) as connection:
        yield Cluster(connection, "isthmus")


@pytest.fixture
def session(backend: Cluster, tmp_path: Path) -> Iterator[Session]:
    """A drill's session, with its blast radius and its journal, on the cluster."""

    class OnCluster(target.Target):
        @property
        def backend(self) -> Cluster:
            return backend

    crowd: Any = SimpleNamespace(traffic=SimpleNamespace(now_s=1.0), books=None)
    radius = {"workloads": ["edge", "orders"], "processes_max": 2, "links": ["core"]}
    loop, on = Loop(), OnCluster(LauncherSettings(home=tmp_path))
    yield Session("one", spec.parse({"blast_radius": radius}), on, loop, crowd, custody.journal(Home(tmp_path)))
    loop.close()


def test_the_nodes_are_the_pods_of_the_mesh_by_component(backend: Cluster) -> None:
    assert backend.nodes == PODS
    assert (backend.links, backend.spares) == (["core"], [])


def test_a_pod_is_killed_at_once_and_within_the_blast_radius(session: Session, api: KubeApi) -> None:
    session.break_processes("kill", ["edge-1", "edge-2"], None)
    assert "edge-1" not in api.named("pods")
    with pytest.raises(TooWide):
        session.break_processes("kill", ["edge-3"], None)
    assert "edge-3" in api.named("pods")


def test_a_frozen_pod_is_reached_by_nobody_until_it_is_healed(session: Session, api: KubeApi) -> None:
    session.break_processes("freeze", ["orders-1"], 60)
    assert not api.reaches("core-gateway-0", "orders-1")
    assert not api.reaches("orders-1", "core-gateway-0")
    assert api.reaches("core-gateway-0", "orders-2")
    (undo,) = session.book.open
    custody.heal_leftovers(session.target)
    assert api.reaches("core-gateway-0", "orders-1")
    assert (api.named("networkpolicies"), api.named("jobs"), undo.door) == ([], [], LAUNCHER)
    assert cluster.LEASE not in api.things["isthmus", "pods", "orders-1"]["metadata"]["labels"]


def test_the_zones_are_apart_until_the_cluster_ends_it_although_nobody_asks(session: Session, api: KubeApi) -> None:
    session.break_link("core", 60, mode="black-hole", directions=["there", "back"])
    assert not api.reaches("edge-gateway-0", "core-gateway-0")
    assert api.reaches("orders-1", "core-gateway-0")
    api.passes(59)
    assert not api.reaches("edge-gateway-0", "core-gateway-0")
    api.passes(1)
    assert api.reaches("edge-gateway-0", "core-gateway-0")
    assert (api.named("networkpolicies"), api.named("jobs")) == ([], [])
    # What has ended by itself is healed again without a complaint.
    assert custody.heal_leftovers(session.target) == ["link core: black-hole"]


def test_what_another_policy_allows_cannot_be_cut_and_is_refused(session: Session, api: KubeApi) -> None:
    allowing = {"podSelector": {"matchLabels": {"app.kubernetes.io/component": "core-gateway"}}}
    ingress = [{"from": [{"podSelector": {"matchLabels": {"app.kubernetes.io/component": "edge-gateway"}}}]}]
    api.add("networkpolicies", "crossing", {}, spec={**allowing, "policyTypes": ["Ingress"], "ingress": ingress})
    with pytest.raises(Refused, match="crossing"):
        session.break_link("core", 60, mode="black-hole")
    assert (api.named("networkpolicies"), api.named("jobs"), session.book.open) == (["crossing"], [], [])


def test_a_policy_that_is_not_allowed_leaves_nothing_behind(session: Session, api: KubeApi) -> None:
    api.forbidden.add("POST networkpolicies")
    with pytest.raises(Refused, match="403"):
        session.break_processes("hold", ["orders-1"], 60)
    assert (api.named("jobs"), session.book.open) == ([], [])
    assert cluster.LEASE not in api.things["isthmus", "pods", "orders-1"]["metadata"]["labels"]


@pytest.mark.parametrize(
    ("at", "request_"),
    [
        (LAUNCHER, {"do": "freeze", "process": "no-such", "lease": "one", "ttl_s": 5}),
        (LAUNCHER, {"do": "kill", "process": "somebody-elses"}),
        (LAUNCHER, {"do": "freeze", "process": "edge-1", "lease": "one", "ttl_s": 0}),
        (LAUNCHER, {"do": "starve", "process": "edge-1", "lease": "one", "ttl_s": 5, "share": 0.5}),
        (links.NAME, {"do": "disturb", "link": "core", "mode": "slow", "lease": "one", "ttl_s": 5}),
        (links.NAME, {"do": "disturb", "link": "none", "mode": "black-hole", "lease": "one", "ttl_s": 5}),
        (OVERRIDES, {"method": "orders/InspectOrder", "lease": "one", "ttl_s": 5}),
    ],
    ids=["unknown pod", "another's pod", "time to live", "starve", "slow link", "unknown link", "calls"],
)
def test_what_it_does_not_do_is_refused(backend: Cluster, api: KubeApi, at: str, request_: dict[str, Any]) -> None:
    before = dict(api.things)
    with pytest.raises(Refused):
        backend.ask(at, **request_)
    assert api.things == before


async def test_who_is_not_ready_or_missing_is_named(backend: Cluster, api: KubeApi) -> None:
    assert await backend.unwell() == {}
    api.pod("edge-1", "edge", ready=False)
    labels = {"app.kubernetes.io/part-of": "isthmus", "app.kubernetes.io/component": "orders"}
    metadata: dict[str, Any] = {"spec": {"replicas": 2, "selector": {}, "template": {}}, "status": {"readyReplicas": 1}}
    api.add("deployments", "orders", labels, **metadata)
    assert await backend.unwell() == {"edge-1": "edge-1 is not ready", "orders": "orders: 1 of 2 are ready"}
    assert await backend.unwell(["edge-9", "edge-2"]) == {"edge-9": "edge-9 does not run"}


def test_a_cluster_that_is_away_is_a_mesh_that_does_not_run(backend: Cluster) -> None:
    with client.ApiClient(client.Configuration(host="http://127.0.0.1:9")) as connection, pytest.raises(NotRunning):
        _ = Cluster(connection, "isthmus").nodes


def test_the_backend_is_chosen_by_a_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, api: KubeApi) -> None:
    on = target.Target(LauncherSettings(home=tmp_path))
    monkeypatch.setenv("ISTHMUS_DRILL_BACKEND", "kubernetes")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    with pytest.raises(NotRunning, match="No cluster"):
        _ = on.nodes
    with serving(api) as host:
        (tmp_path / "kubeconfig").write_text(KUBECONFIG.format(host=host))
        assert on.nodes == PODS


@pytest.mark.parametrize("name", ["kill-30-percent-of-edge", "slow-core"])
def test_experiments_as_they_are_name_only_what_is_there(name: str, api: KubeApi, backend: Cluster) -> None:
    named = library.targets(library.read(library.find(name)))
    assert named.processes <= backend.nodes.keys()
    assert named.workloads <= set(backend.nodes.values())


KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: here
contexts: [{{name: here, context: {{cluster: here, user: me}}}}]
clusters: [{{name: here, cluster: {{server: "{host}"}}}}]
users: [{{name: me, user: {{}}}}]
"""
