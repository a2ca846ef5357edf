"""An event as it lies in the spool: what its Kafka record needs, without parsing the message.

kind 1 byte | event id 16 | length of traceparent 1, traceparent | serialized message
"""

import struct
from enum import IntEnum
from typing import Any, NamedTuple

from isthmus.events.v1 import events_pb2

_HEAD = struct.Struct("<B16sB")


class Kind(IntEnum):
    """Numbers are part of the format: never reuse one."""

    IMPRESSION = 1
    CLICK = 2
    CONTENT_VIEW = 3
    CONTENT_RECEIPT = 4

    @property
    def message(self) -> str:
        """Full name of the protobuf message."""
        return str(_MESSAGES[self].DESCRIPTOR.full_name)


# Looked up by number: making a Kind of it takes as long as parsing.
_MESSAGES: dict[int, Any] = {
    Kind.IMPRESSION: events_pb2.Impression,
    Kind.CLICK: events_pb2.Click,
    Kind.CONTENT_VIEW: events_pb2.ContentView,
    Kind.CONTENT_RECEIPT: events_pb2.ContentReceipt,
}


class Event(NamedTuple):
    kind: int
    event_id: bytes
    traceparent: bytes
    body: bytes


def pack(kind: int, event_id: bytes, traceparent: str, body: bytes) -> bytes:
    """`traceparent` is a valid one or empty."""
    head = _HEAD.pack(kind, event_id, len(traceparent))
    return head + traceparent.encode("ascii") + body if traceparent else head + body


def unpack(payload: bytes) -> Event:
    """Raises ValueError for a payload that is none."""
    if len(payload) < _HEAD.size:
        raise ValueError("shorter than its head")
    kind, event_id, length = _HEAD.unpack_from(payload)
    at = _HEAD.size + length
    return Event(kind, event_id, payload[_HEAD.size : at], payload[at:])


def parse(kind: int, body: bytes) -> Any:
    """The event's message, which has an `event_id` and an `accepted_time_us`. Raises DecodeError, KeyError."""
    return _MESSAGES[kind].FromString(body)
