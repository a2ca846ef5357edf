"""The ADS state machine: what is sent, when, and what it waits for."""

from collections.abc import Iterable
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.service.discovery.v3 import discovery_pb2
from hypothesis import given
from hypothesis import strategies as st

from mesh.control.conversation import (
    ANSWER_WITHIN_S,
    NAMES_MAX,
    WARM_WITHIN_S,
    Ack,
    Conversation,
    ConversationError,
    Nack,
)
from mesh.control.snapshot import CLUSTER, ENDPOINTS, LISTENER, ROUTES, Snapshot, pack


def snapshot(clusters: Iterable[str], *, mark: int = 0, endpoints_mark: int = 0) -> Snapshot:
    """One listener and one route table, both different for each mark, and the given clusters."""
    names = sorted(clusters)
    route = route_pb2.RouteConfiguration(name="edge", internal_only_headers=[*names, str(mark)])
    assignments = {}
    for name in names:
        assignments[name] = endpoint_pb2.ClusterLoadAssignment(cluster_name=name)
        assignments[name].policy.overprovisioning_factor.value = 100 + endpoints_mark
    return Snapshot.of(
        {
            CLUSTER: pack({name: cluster_pb2.Cluster(name=name) for name in names}),
            ENDPOINTS: pack(assignments),
            LISTENER: pack({"edge": listener_pb2.Listener(name="edge", stat_prefix=str(mark))}),
            ROUTES: pack({"edge": route}),
        }
    )


class DataPlane:
    """Subscribes and acknowledges as Envoy does: endpoints of each cluster it is told, the route its listener names."""

    def __init__(self) -> None:
        self.conversation = Conversation()
        self.nonces: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self.names: dict[str, list[str]] = {CLUSTER: [], ENDPOINTS: [], LISTENER: [], ROUTES: []}
        self.log: list[tuple[str, tuple[str, ...]]] = []
        self.ask(CLUSTER)

    def ask(self, kind: str, error: str = "") -> Ack | Nack | None:
        request = discovery_pb2.DiscoveryRequest(
            type_url=kind,
            resource_names=self.names[kind],
            response_nonce=self.nonces.get(kind, ""),
            version_info=self.versions.get(kind, ""),
        )
        if error:
            request.error_detail.message = error
        return self.conversation.receive(request)

    def hear(self, snapshot: Snapshot, now: float = 0.0) -> Any | None:
        """Receive one response, without acknowledging it."""
        response = self.conversation.next(snapshot, now)
        if response is not None:
            self.nonces[response.type_url] = response.nonce
            self.log.append((response.type_url, names(response)))
        return response

    def acknowledge(self, response: Any) -> None:
        kind = response.type_url
        self.versions[kind] = response.version_info
        self.ask(kind)
        if kind == CLUSTER and list(names(response)) != self.names[ENDPOINTS]:
            self.names[ENDPOINTS] = list(names(response))
            self.ask(ENDPOINTS)
        if kind == ENDPOINTS and LISTENER not in self.nonces:
            self.ask(LISTENER)
        if kind == LISTENER and not self.names[ROUTES]:
            self.names[ROUTES] = ["edge"]
            self.ask(ROUTES)

    def settle(self, snapshot: Snapshot, now: float = 0.0) -> list[tuple[str, tuple[str, ...]]]:
        """Acknowledge everything until nothing more comes; returns what came."""
        self.log = []
        for _ in range(50):
            response = self.hear(snapshot, now)
            if response is None:
                return self.log
            self.acknowledge(response)
        raise AssertionError(f"no end of answers: {self.log}")


def names(response: Any) -> tuple[str, ...]:
    kinds = {
        CLUSTER: cluster_pb2.Cluster,
        ENDPOINTS: endpoint_pb2.ClusterLoadAssignment,
        LISTENER: listener_pb2.Listener,
        ROUTES: route_pb2.RouteConfiguration,
    }
    found = []
    for resource in response.resources:
        message = kinds[response.type_url]()
        assert resource.Unpack(message)
        found.append(message.cluster_name if response.type_url == ENDPOINTS else message.name)
    return tuple(found)


def connected(first: Snapshot) -> DataPlane:
    plane = DataPlane()
    plane.settle(first)
    return plane


def test_a_new_data_plane_is_told_clusters_endpoints_listeners_routes_in_this_order() -> None:
    plane = DataPlane()
    assert [kind for kind, _ in plane.settle(snapshot(["a"]))] == [CLUSTER, ENDPOINTS, LISTENER, ROUTES]


def test_nothing_is_sent_twice() -> None:
    first = snapshot(["a"])
    assert connected(first).settle(first) == []


def test_only_what_changed_is_sent() -> None:
    plane = connected(snapshot(["a", "b"]))
    assert plane.settle(snapshot(["a", "b"], endpoints_mark=1)) == [(ENDPOINTS, ("a", "b"))]


def test_nothing_more_of_a_type_is_sent_before_the_last_is_answered() -> None:
    plane = connected(snapshot(["a"]))
    assert plane.hear(snapshot(["a"], endpoints_mark=1)) is not None
    assert plane.hear(snapshot(["a"], endpoints_mark=2)) is None


def test_endpoints_are_answered_after_a_cluster_changed_even_if_they_did_not() -> None:
    first = snapshot(["a"])
    plane = connected(first)
    changed = Snapshot.of(
        {**first.resources, CLUSTER: pack({"a": cluster_pb2.Cluster(name="a", alt_stat_name="other")})}
    )
    assert plane.settle(changed) == [(CLUSTER, ("a",)), (ENDPOINTS, ("a",))]


def test_routes_wait_until_the_new_cluster_is_warm() -> None:
    plane = connected(snapshot(["a"]))
    second = snapshot(["a", "b"], mark=1)
    clusters = plane.hear(second)
    assert clusters is not None
    assert clusters.type_url == CLUSTER
    assert plane.hear(second) is None
    plane.ask(CLUSTER)
    endpoints = plane.hear(second)
    assert endpoints is not None
    assert endpoints.type_url == ENDPOINTS
    plane.ask(ENDPOINTS)
    # Acknowledged, but the endpoints of b have not been asked for yet.
    assert plane.hear(second) is None
    assert plane.conversation.waits_for_warmth()
    plane.names[ENDPOINTS] = ["a", "b"]
    plane.ask(ENDPOINTS)
    assert [kind for kind, _ in plane.settle(second)] == [ENDPOINTS, LISTENER, ROUTES]


def test_a_client_that_never_asks_for_endpoints_gets_its_routes_after_a_while() -> None:
    plane = connected(snapshot(["a"]))
    second = snapshot(["a", "b"], mark=1)
    plane.hear(second)
    plane.ask(CLUSTER)
    plane.hear(second)
    plane.ask(ENDPOINTS)
    assert plane.hear(second, now=0.0) is None
    later = plane.hear(second, now=WARM_WITHIN_S)
    assert later is not None
    assert later.type_url == LISTENER


def test_a_cluster_that_goes_stays_until_no_route_names_it() -> None:
    plane = connected(snapshot(["a", "b"]))
    told = plane.settle(snapshot(["a"], mark=1))
    assert (CLUSTER, ("a",)) in told
    assert told.index((CLUSTER, ("a",))) > told.index((ROUTES, ("edge",)))


def test_a_cluster_that_replaces_another_comes_before_it_goes() -> None:
    plane = connected(snapshot(["a"]))
    told = [seen for seen in plane.settle(snapshot(["b"], mark=1)) if seen[0] in (CLUSTER, ROUTES)]
    assert told == [(CLUSTER, ("a", "b")), (ROUTES, ("edge",)), (CLUSTER, ("b",))]


def test_a_refusal_is_told_with_its_reason_and_the_same_is_not_sent_again() -> None:
    plane = connected(snapshot(["a"]))
    second = snapshot(["a"], mark=1)
    refused = plane.hear(second)
    assert refused is not None
    event = plane.ask(refused.type_url, error="no such filter")
    assert event == Nack(LISTENER, second.versions[LISTENER], "no such filter")
    rest = plane.settle(second)
    assert LISTENER not in {kind for kind, _ in rest}


def test_after_a_refusal_the_good_one_is_sent_again() -> None:
    first = snapshot(["a"])
    plane = connected(first)
    assert plane.hear(snapshot(["a"], mark=1)) is not None
    plane.ask(LISTENER, error="no")
    assert plane.settle(first) == [(LISTENER, ("edge",))]


def test_what_was_refused_is_told_again_when_it_is_wanted_again_after_something_else_was_taken() -> None:
    first, second = snapshot(["a"]), snapshot(["a"], mark=1)
    plane = connected(first)
    assert plane.hear(second) is not None
    plane.ask(LISTENER, error="no")
    plane.settle(first)
    assert (LISTENER, ("edge",)) in plane.settle(second)


def test_after_a_refused_cluster_the_routes_away_from_it_come_at_once() -> None:
    # A gRPC client asks by name, and for what its routes name alone.
    plane = DataPlane()
    plane.names = {CLUSTER: ["a"], ENDPOINTS: ["a"], LISTENER: ["edge"], ROUTES: ["edge"]}
    for kind in (CLUSTER, ENDPOINTS, LISTENER, ROUTES):
        plane.ask(kind)
    endpoints = snapshot(["a", "b"])
    good, bad = (snapshot([each]).with_endpoints_of(endpoints) for each in ("a", "b"))
    plane.settle(good)
    moved = plane.hear(bad)
    assert moved is not None
    assert moved.type_url == ROUTES
    plane.names = {**plane.names, CLUSTER: ["b"], ENDPOINTS: []}
    for kind in (ROUTES, CLUSTER, ENDPOINTS):
        plane.ask(kind)
    assert names(plane.hear(bad)) == ("b",)
    assert isinstance(plane.ask(CLUSTER, error="no source of endpoints"), Nack)

    # No time passes here.
    assert (ROUTES, ("edge",)) in plane.settle(good)


def test_endpoints_that_are_refused_are_not_sent_again_for_clusters_taken_meanwhile() -> None:
    plane = DataPlane()
    told = snapshot(["a"])
    plane.names[ENDPOINTS] = ["a"]
    plane.ask(ENDPOINTS)
    assert plane.hear(told) is not None
    assert plane.hear(told) is not None
    plane.ask(CLUSTER)
    plane.ask(ENDPOINTS, error="no")
    assert plane.hear(told) is None


def test_a_stale_nonce_answers_nothing() -> None:
    plane = connected(snapshot(["a"]))
    stale = plane.nonces[ENDPOINTS]
    assert plane.hear(snapshot(["a"], endpoints_mark=1)) is not None
    newest, plane.nonces[ENDPOINTS] = plane.nonces[ENDPOINTS], stale
    assert plane.ask(ENDPOINTS, error="late") is None
    plane.nonces[ENDPOINTS] = newest
    assert isinstance(plane.ask(ENDPOINTS), Ack)


def test_asking_for_more_names_is_answered_and_for_fewer_is_not() -> None:
    both = snapshot(["a", "b"])
    plane = connected(both)
    plane.names[ENDPOINTS] = ["a"]
    plane.conversation.receive(request := _request(plane, ENDPOINTS))
    assert request.resource_names == ["a"]
    plane.settle(both)
    plane.names[ENDPOINTS] = ["a", "b"]
    plane.ask(ENDPOINTS)
    assert plane.settle(both) == [(ENDPOINTS, ("a", "b"))]


def _request(plane: DataPlane, kind: str) -> Any:
    return discovery_pb2.DiscoveryRequest(
        type_url=kind, resource_names=plane.names[kind], response_nonce=plane.nonces[kind]
    )


def test_a_grpc_client_gets_only_what_it_names() -> None:
    conversation = Conversation()
    conversation.receive(discovery_pb2.DiscoveryRequest(type_url=CLUSTER, resource_names=["b"]))
    response = conversation.next(snapshot(["a", "b"]), 0.0)
    assert response is not None
    assert names(response) == ("b",)
    conversation.receive(
        discovery_pb2.DiscoveryRequest(type_url=CLUSTER, resource_names=["b"], response_nonce=response.nonce)
    )
    # What others subscribe to is no news to this one.
    assert conversation.next(snapshot(["a", "b", "c"]), 0.0) is None


def test_a_reconnected_data_plane_is_answered_although_it_knows_the_version() -> None:
    first = snapshot(["a"])
    conversation = Conversation()
    conversation.receive(discovery_pb2.DiscoveryRequest(type_url=CLUSTER, version_info=first.versions[CLUSTER]))
    assert conversation.next(first, 0.0) is not None


def test_unknown_types_are_ignored() -> None:
    conversation = Conversation()
    assert conversation.receive(discovery_pb2.DiscoveryRequest(type_url="type.googleapis.com/nothing")) is None
    assert conversation.next(snapshot(["a"]), 0.0) is None


def test_too_many_names_end_the_stream() -> None:
    asked = [str(number) for number in range(NAMES_MAX + 1)]
    with pytest.raises(ConversationError):
        Conversation().receive(discovery_pb2.DiscoveryRequest(type_url=ENDPOINTS, resource_names=asked))


def test_a_client_that_never_acknowledges_is_noticed() -> None:
    plane = DataPlane()
    assert plane.hear(snapshot(["a"]), now=0.0) is not None
    assert not plane.conversation.overdue(ANSWER_WITHIN_S)
    assert plane.conversation.overdue(ANSWER_WITHIN_S + 1)


@given(st.lists(st.tuples(st.sets(st.sampled_from("abcd"), min_size=1), st.integers(0, 2)), min_size=1, max_size=8))
def test_no_route_is_ever_sent_before_its_clusters_nor_a_cluster_taken_from_under_one(
    plans: list[tuple[set[str], int]],
) -> None:
    plane = DataPlane()
    held: set[str] = set()
    routed: set[str] = set()
    for clusters, mark in plans:
        target = snapshot(sorted(clusters), mark=mark)
        for kind, told in plane.settle(target):
            if kind == CLUSTER:
                held = set(told)
            elif kind == ROUTES:
                routed = clusters
            assert routed <= held
        assert held == clusters
