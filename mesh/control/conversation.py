"""One ADS stream as a state machine without I/O: state of the world, ACK and NACK by nonce, make before break.

Protocol: https://www.envoyproxy.io/docs/envoy/v1.40.0/api-docs/xds_protocol
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from envoy.service.discovery.v3 import discovery_pb2

from mesh.control.snapshot import CLUSTER, ENDPOINTS, LISTENER, ORDER, RETIRING, ROUTES, Resource, Snapshot, version

# A client that acknowledges clusters and then never asks for their endpoints must not hold up its routes for ever.
WARM_WITHIN_S: Final = 5.0
# Neither ACK nor NACK for so long: the client is broken, and a new stream is its best chance.
ANSWER_WITHIN_S: Final = 60.0
NAMES_MAX: Final = 4096
_WILDCARD: Final = "*"
_MAY_BE_WILDCARD: Final = frozenset({CLUSTER, LISTENER})
_REFERRERS: Final = (LISTENER, ROUTES)


class ConversationError(ValueError):
    """The client broke the protocol's bounds; its stream is to be closed."""


@dataclass(frozen=True, slots=True)
class Ack:
    kind: str
    version: str


@dataclass(frozen=True, slots=True)
class Nack:
    kind: str
    version: str
    reason: str


@dataclass(slots=True)
class _Subscription:
    # None: all of them.
    names: frozenset[str] | None
    # An answer is due even if nothing changed.
    owed: bool = True
    nonce: str = ""
    version: str = ""
    # Of the resources last sent.
    digest: str = ""
    # Of the resources last refused; the same are not sent again.
    refused: str = ""
    sent_at: float = 0.0
    in_flight: bool = False


class Conversation:
    """What one data plane has asked for, been sent and acknowledged. `now` is a monotonic time in seconds."""

    def __init__(self) -> None:
        self._subscriptions: dict[str, _Subscription] = {}
        self._clusters: Mapping[str, Resource] = {}
        self._cold_since: float | None = None
        self._nonce = 0

    def receive(self, request: Any) -> Ack | Nack | None:
        """Take in one DiscoveryRequest. None when it acknowledges nothing: a first request, a stale or an unknown one.

        Raises ConversationError when it asks for more names than one stream may.
        """
        kind = request.type_url
        if kind not in ORDER:
            return None
        if len(request.resource_names) > NAMES_MAX:
            raise ConversationError(f"more than {NAMES_MAX} names")
        subscription = self._subscriptions.get(kind)
        if subscription is None or not request.response_nonce:
            before = self._subscriptions.get(kind)
            self._subscriptions[kind] = _Subscription(_names(request, before))
            return None
        if request.response_nonce != subscription.nonce:
            # It crossed with a newer answer, which the client will acknowledge in its turn.
            return None
        answered, subscription.in_flight = subscription.in_flight, False
        names = _names(request, subscription)
        asks_more = names != subscription.names and (names is None or bool(names - (subscription.names or frozenset())))
        # A second request under the same nonce asks again: a cluster that warms anew needs its endpoints once more.
        subscription.owed = subscription.owed or asks_more or not answered
        subscription.names = names
        if not answered:
            return None
        if request.HasField("error_detail"):
            # Owed for clusters that changed meanwhile, it would be told again what it has just refused.
            subscription.refused, subscription.owed = subscription.digest, asks_more
            return Nack(kind, subscription.version, request.error_detail.message)
        # What was refused before was refused beside something else: should it be wanted again, it is told again.
        subscription.refused = ""
        if kind == CLUSTER and ENDPOINTS in self._subscriptions:
            # A changed cluster warms again, and stays warming until its endpoints come, changed or not.
            self._subscriptions[ENDPOINTS].owed = True
        return Ack(kind, subscription.version)

    def next(self, snapshot: Snapshot, now: float) -> Any | None:
        """The DiscoveryResponse to send now, or None while there is nothing to say or an answer must be waited for."""
        for kind in ORDER:
            subscription = self._subscriptions.get(kind)
            if subscription is None or subscription.in_flight:
                continue
            resources = self._wanted(kind, subscription, snapshot)
            if not _due(subscription, _digest(resources, snapshot)):
                continue
            if kind in _REFERRERS and not self._warm(snapshot, now):
                continue
            return self._send(kind, subscription, resources, snapshot, now)
        return None

    def waits_for_warmth(self) -> bool:
        """Listeners or routes are held back until clusters are ready: ask `next` again soon."""
        return self._cold_since is not None

    def overdue(self, now: float) -> bool:
        """An answer has not been acknowledged or refused for too long."""
        return any(each.in_flight and now - each.sent_at > ANSWER_WITHIN_S for each in self._subscriptions.values())

    def _wanted(self, kind: str, subscription: _Subscription, snapshot: Snapshot) -> dict[str, Resource]:
        resources = snapshot.select(kind, subscription.names)
        if kind == CLUSTER and not self._referrers_settled(snapshot):
            # Clusters that go stay until nothing refers to them.
            return {**self._clusters, **resources}
        return resources

    def _referrers_settled(self, snapshot: Snapshot) -> bool:
        for kind in _REFERRERS:
            subscription = self._subscriptions.get(kind)
            if subscription is None or subscription.digest == subscription.refused != "":
                continue
            wanted = _digest(snapshot.select(kind, subscription.names), snapshot)
            if subscription.in_flight or subscription.digest != wanted:
                return False
        return True

    def _warm(self, snapshot: Snapshot, now: float) -> bool:
        if self._ready(snapshot):
            self._cold_since = None
            return True
        if self._cold_since is None:
            self._cold_since = now
        if now - self._cold_since < WARM_WITHIN_S:
            return False
        self._cold_since = None
        return True

    def _ready(self, snapshot: Snapshot) -> bool:
        """Every cluster sent is acknowledged, and so are its endpoints."""
        clusters, endpoints = self._subscriptions.get(CLUSTER), self._subscriptions.get(ENDPOINTS)
        for kind, subscription in ((CLUSTER, clusters), (ENDPOINTS, endpoints)):
            if subscription is None:
                continue
            wanted = _digest(self._wanted(kind, subscription, snapshot), snapshot)
            if subscription.in_flight or _due(subscription, wanted):
                return False
        if clusters is None:
            return True
        asked = endpoints.names if endpoints is not None else frozenset()
        # Those that go hold up nothing, nor do those that were refused: who has dropped the clusters of before, for a
        # route to one that it then refused, waits for its routes alone.
        needed = self._clusters.keys() & snapshot.resources[CLUSTER].keys() & snapshot.resources[ENDPOINTS].keys()
        return needed <= (asked or frozenset())

    def _send(
        self, kind: str, subscription: _Subscription, resources: dict[str, Resource], snapshot: Snapshot, now: float
    ) -> Any:
        self._nonce += 1
        retiring = kind == CLUSTER and not resources.keys() <= snapshot.resources[kind].keys()
        subscription.owed = False
        subscription.in_flight = True
        subscription.sent_at = now
        subscription.nonce = str(self._nonce)
        subscription.digest = _digest(resources, snapshot)
        subscription.version = snapshot.versions[kind] + (RETIRING if retiring else "")
        if kind == CLUSTER:
            self._clusters = resources
        return discovery_pb2.DiscoveryResponse(
            version_info=subscription.version,
            resources=[resource.packed for _, resource in sorted(resources.items())],
            type_url=kind,
            nonce=subscription.nonce,
        )


def _digest(resources: Mapping[str, Resource], snapshot: Snapshot) -> str:
    """Of what a subscription is to be told: another one when the same is offered again."""
    return version(resources.values()) + (f"#{snapshot.attempt}" if snapshot.attempt else "")


def _due(subscription: _Subscription, digest: str) -> bool:
    return subscription.owed or digest not in (subscription.digest, subscription.refused)


def _names(request: Any, before: _Subscription | None) -> frozenset[str] | None:
    names = frozenset(request.resource_names)
    if _WILDCARD in names:
        return None
    # Asking for nothing by name asks for all, as long as the client has never named anything.
    if not names and request.type_url in _MAY_BE_WILDCARD and (before is None or before.names is None):
        return None
    return names
