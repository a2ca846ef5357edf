"""One immutable, versioned state of everything that a group of data planes is told."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from google.protobuf import any_pb2
from google.protobuf.message import Message

CLUSTER: Final = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
ENDPOINTS: Final = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER: Final = "type.googleapis.com/envoy.config.listener.v3.Listener"
ROUTES: Final = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
# Make before break: what is referred to comes before what refers to it.
ORDER: Final = (CLUSTER, ENDPOINTS, LISTENER, ROUTES)
# All but ENDPOINTS, which change with every probe and are no configuration.
CONFIGURATION: Final = (CLUSTER, LISTENER, ROUTES)

# What a version ends with where clusters that go are told beside those that stay.
RETIRING: Final = ".retiring"


@dataclass(frozen=True, slots=True)
class Resource:
    """One packed resource and the digest of its content."""

    name: str
    digest: str
    packed: any_pb2.Any


Resources = Mapping[str, Resource]


def pack(messages: Mapping[str, Message], sources: Mapping[str, object] | None = None) -> Resources:
    """Name to message, as resources; the same content always has the same digest.

    sources: by name, what a message was parsed from, in JSON's types. Needed where a message holds an Any with a map
    inside: its bytes differ from process to process, and every restart would look like a change.
    """
    packed: dict[str, Resource] = {}
    for name, message in sorted(messages.items()):
        holder = any_pb2.Any()
        holder.Pack(message, deterministic=True)
        digest = _digest(holder.value) if sources is None else _digest_of_source(sources[name])
        packed[name] = Resource(name, digest, holder)
    return MappingProxyType(packed)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _digest_of_source(source: object) -> str:
    return _digest(json.dumps(source, sort_keys=True).encode())


def named(sources: Mapping[str, Mapping[str, object]]) -> str:
    """The name of the configuration that is parsed from these, by type and name: it has one though it cannot be."""
    empty = any_pb2.Any()
    resources = {
        kind: {name: Resource(name, _digest_of_source(source), empty) for name, source in found.items()}
        for kind, found in sources.items()
    }
    return Snapshot.of(resources).configuration


def version(resources: Iterable[Resource]) -> str:
    """The version of a set of resources: a digest of their names and contents."""
    listing = "\n".join(sorted(f"{each.name} {each.digest}" for each in resources))
    return hashlib.sha256(listing.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one group is told, by type and name."""

    resources: Mapping[str, Resources]
    versions: Mapping[str, str]
    # Offered so many times before, and refused: the same content is worth another answer.
    attempt: int = 0
    # By sub-zone: what is told there instead, the same with its own endpoints first.
    near: Mapping[str, "Snapshot"] = field(default_factory=dict)

    @classmethod
    def of(cls, resources: Mapping[str, Resources]) -> "Snapshot":
        complete = {kind: resources.get(kind, MappingProxyType({})) for kind in ORDER}
        return cls(
            MappingProxyType(complete),
            MappingProxyType({kind: version(found.values()) for kind, found in complete.items()}),
        )

    @property
    def configuration(self) -> str:
        """Names the configuration, without its endpoints."""
        listing = "\n".join(self.versions[kind] for kind in CONFIGURATION)
        return hashlib.sha256(listing.encode()).hexdigest()[:12]

    def with_endpoints_of(self, other: "Snapshot") -> "Snapshot":
        """This configuration with the endpoints of another snapshot."""
        near = {name: seen.resources[ENDPOINTS] for name, seen in other.near.items()}
        return self._with(other.resources[ENDPOINTS]).with_near(near)

    def with_near(self, endpoints: Mapping[str, Resources]) -> "Snapshot":
        """This snapshot, and by sub-zone the endpoints as they are told there."""
        return replace(self, near=MappingProxyType({name: self._with(found) for name, found in endpoints.items()}))

    def seen_from(self, sub_zone: str) -> "Snapshot":
        """What a data plane in this sub-zone is told."""
        seen = self.near.get(sub_zone)
        return self if seen is None else replace(seen, attempt=self.attempt)

    def _with(self, endpoints: Resources) -> "Snapshot":
        return Snapshot(
            MappingProxyType({**self.resources, ENDPOINTS: endpoints}),
            MappingProxyType({**self.versions, ENDPOINTS: version(endpoints.values())}),
        )

    def same_configuration(self, other: "Snapshot") -> bool:
        return all(self.versions[kind] == other.versions[kind] for kind in CONFIGURATION)

    def select(self, kind: str, names: frozenset[str] | None) -> dict[str, Resource]:
        """The resources of a type that a subscription asks for; None asks for all."""
        found = self.resources[kind]
        return dict(found) if names is None else {name: found[name] for name in names if name in found}
