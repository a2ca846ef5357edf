"""The transactional outbox: an event is stored in the transaction of what it tells of, and sent by the bridge later.

The event exists exactly when the change does. What goes outward, sync_bridge.outbound reads in the order of `seq` per
key, sends and removes; what stays within the private core, the warehouse takes. Two transactions may commit out of the
order of their `seq`; for one key they cannot, because whoever changes an entity holds its row's lock until it commits.
"""

from functools import cache
from typing import Any, Final

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.call import find_call
from mesh.contract.model import EventPolicy
from mesh.contract.reader import read_event

# `WITH ... , told AS (TOLD)`: {of} is where it hangs on, of one row when the event is wanted.
TOLD: Final = """
    INSERT INTO outbox.event (topic, key, payload, traceparent)
    SELECT :event_topic, :event_key, :event_payload, :event_traceparent FROM {of}
    """
_APPEND: Final = text(
    "INSERT INTO outbox.event (topic, key, payload, traceparent) VALUES (:topic, :key, :payload, :traceparent)"
)


async def append(connection: AsyncConnection, topic: str, key: str, event: Message | None) -> None:
    """Store `event` in the connection's open transaction; None tells that the entity `key` is gone."""
    parameters = {
        "topic": topic,
        "key": key,
        "payload": None if event is None else event.SerializeToString(deterministic=True),
        "traceparent": _traceparent(),
    }
    await connection.execute(_APPEND, parameters)


def parameters(event: Message) -> dict[str, Any]:
    """The parameters of TOLD: `event`, to where the contract says it goes and under the key it names."""
    policy = _policy(event.DESCRIPTOR)
    return {
        "event_topic": policy.topic,
        "event_key": getattr(event, policy.key_field),
        "event_payload": event.SerializeToString(deterministic=True),
        "event_traceparent": _traceparent(),
    }


@cache
def _policy(kind: Descriptor) -> EventPolicy:
    policy = read_event(kind)
    assert policy is not None, f"the contract makes {kind.full_name} no event"
    return policy


def _traceparent() -> str:
    call = find_call()
    return call.traceparent if call else ""
