"""The transactional outbox: an event is stored in the transaction of what it tells of, and sent by the bridge later.

The event exists exactly when the change does. sync_bridge.outbound reads the rows in the order of `seq` per key, sends
them and removes them. Two transactions may commit out of the order of their `seq`; for one key they cannot, because
whoever changes an entity holds its row's lock until it commits.
"""

from typing import Final

from google.protobuf.message import Message
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.call import find_call

_APPEND: Final = text(
    "INSERT INTO outbox.event (topic, key, payload, traceparent) VALUES (:topic, :key, :payload, :traceparent)"
)


async def append(connection: AsyncConnection, topic: str, key: str, event: Message | None) -> None:
    """Store `event` in the connection's open transaction; None tells that the entity `key` is gone."""
    call = find_call()
    parameters = {
        "topic": topic,
        "key": key,
        "payload": None if event is None else event.SerializeToString(deterministic=True),
        "traceparent": call.traceparent if call else "",
    }
    await connection.execute(_APPEND, parameters)
