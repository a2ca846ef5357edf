"""Who may do what on which topic: ACLs by certificate subject, compiled from the contract's direction of each event."""

from collections.abc import Iterable

from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)

# Direction of an event -> (principals that write it, principals that read it).
WRITERS_READERS = {
    "inward": (("edge.public",), ("bridge-inbound.private",)),
    "outward": (("bridge-outbound.private",), ("edge.public",)),
}
GROUP_PREFIX = "isthmus."
# Of the bridge's relays: whoever takes the id over fences the relay before.
TRANSACTIONAL_IDS = {"isthmus.outbound": "bridge-outbound.private"}


def bindings(topics: Iterable[tuple[str, str]]) -> list[AclBinding]:
    """ACLs for (topic, direction) pairs; direction is `inward` or `outward`, anything else is a KeyError."""
    found: list[AclBinding] = []
    readers_of_all: dict[str, None] = {}
    for topic, direction in topics:
        writers, readers = WRITERS_READERS[direction]
        found += [_topic(topic, principal, AclOperation.WRITE) for principal in writers]
        found += [_topic(topic, principal, AclOperation.READ) for principal in readers]
        readers_of_all |= dict.fromkeys(readers)
    # librdkafka wants a group id even where a consumer keeps its offsets itself.
    found += [_group(principal) for principal in readers_of_all]
    return found + [
        _allow(ResourceType.TRANSACTIONAL_ID, name, ResourcePatternType.LITERAL, principal, AclOperation.WRITE)
        for name, principal in TRANSACTIONAL_IDS.items()
    ]


def _topic(topic: str, principal: str, operation: AclOperation) -> AclBinding:
    return _allow(ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, principal, operation)


def _group(principal: str) -> AclBinding:
    return _allow(ResourceType.GROUP, GROUP_PREFIX, ResourcePatternType.PREFIXED, principal, AclOperation.READ)


def _allow(
    kind: ResourceType, name: str, pattern: ResourcePatternType, principal: str, operation: AclOperation
) -> AclBinding:
    return AclBinding(kind, name, pattern, f"User:{principal}", "*", operation, AclPermissionType.ALLOW)
