"""What may leave the private zone: events declared outward, fields of class PUBLIC or INTERNAL, and nothing else.

Deny by default, twice: the declared messages when the process starts, and every record before it is sent.
"""

from collections.abc import Iterable
from typing import Final

import protovalidate
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from mesh.contract import Contract, EventPolicy
from mesh.contract.model import DataClass, Direction
from mesh.errors import FailedPrecondition

HIGHEST: Final = DataClass.INTERNAL
# The broker takes 1 MiB with the record's key and headers.
RECORD_BYTES_MAX: Final = 1_000_000


class Leak(Exception):
    """The record must not leave. `detail` names fields and rules, never values."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(f"{cause}: {detail}")
        self.cause = cause
        self.detail = detail


class Gate:
    def __init__(self, contract: Contract) -> None:
        """Raises FailedPrecondition when an outward event can hold a field above INTERNAL, or one that is resident."""
        self._contract = contract
        self._validator = protovalidate.Validator()
        self._events: dict[str, tuple[EventPolicy, type[Message]]] = {}
        # Of events that stay within the private core: their rows are the warehouse's to take.
        self.within = frozenset(event.topic for event in contract.events.values() if not event.crosses)
        for event in contract.events.values():
            if event.direction is Direction.OUTWARD:
                kind = descriptor_pool.Default().FindMessageTypeByName(event.message)
                self._check_declared(kind)
                self._events[event.topic] = (event, message_factory.GetMessageClass(kind))

    @property
    def topics(self) -> frozenset[str]:
        return frozenset(self._events)

    def kind(self, topic: str) -> str:
        """Full name of the message that `topic` carries. Raises KeyError for a topic that is not outward."""
        return self._events[topic][0].message

    def compacted(self, topic: str) -> bool:
        """Whether only the newest record of a key counts. Raises KeyError for a topic that is not outward."""
        return self._events[topic][0].compacted

    def admit(self, topic: str, key: str, payload: bytes | None) -> bytes | None:
        """The bytes to send for this record: made anew from what was checked, so nothing else can ride along.

        None is a tombstone. Raises Leak for whatever may not leave.
        """
        if topic not in self._events:
            raise Leak("NOT_OUTWARD", f"no event of the contract goes outward to the topic {topic!r}")
        event, kind = self._events[topic]
        if not key:
            raise Leak("NO_KEY", "a compacted topic has no record without a key")
        if payload is None:
            if not event.compacted:
                raise Leak("NO_PAYLOAD", f"{topic} is not compacted: a tombstone means nothing there")
            return None
        try:
            message = kind.FromString(payload)
        except DecodeError as error:
            raise Leak("UNREADABLE", f"the payload is not a {event.message}") from error
        self._check_record(message, event.message)
        # A record of another kind can happen to parse; it will hardly keep this one's rules as well.
        broken = sorted({_path(violation) for violation in self._validator.collect_violations(message)})
        if broken:
            raise Leak("INVALID", f"fields break their rules: {', '.join(broken)}")
        if getattr(message, event.key_field) != key:
            raise Leak("KEY_DIFFERS", f"the key is not the record's {event.key_field}")
        checked = message.SerializeToString(deterministic=True)
        if len(checked) > RECORD_BYTES_MAX:
            raise Leak("TOO_LARGE", f"{len(checked)} bytes, at most {RECORD_BYTES_MAX} may be sent")
        return checked

    def _check_declared(self, kind: Descriptor) -> None:
        for field, data_class in self._reachable(kind):
            if data_class > HIGHEST:
                raise FailedPrecondition(
                    "LEAK_DECLARED",
                    f"{field} is {data_class.name} and {kind.full_name} goes outward",
                    remedy="take the field out of the message, or the message out of the outward events",
                )
        for field, _ in self._reachable(kind):
            if field.rpartition(".")[0] in self._contract.resident:
                raise FailedPrecondition(
                    "RESIDENT_DECLARED",
                    f"{kind.full_name} goes outward and holds {field}, which stays in its region",
                    remedy="carry its id instead",
                )

    def _reachable(self, kind: Descriptor) -> Iterable[tuple[str, DataClass]]:
        """Every field that a record of this kind can hold, with its class."""
        waiting, seen = [kind], {kind.full_name}
        while waiting:
            current = waiting.pop()
            for field in current.fields:
                if not current.GetOptions().map_entry:
                    yield field.full_name, self._contract.fields(current.full_name)[field.name].data_class
                if field.message_type is not None and field.message_type.full_name not in seen:
                    seen.add(field.message_type.full_name)
                    waiting.append(field.message_type)

    def _check_record(self, message: Message, path: str) -> None:
        if len(UnknownFieldSet(message)):
            raise Leak("UNKNOWN_FIELD", f"{path} holds fields that the contract does not know")
        policies = self._contract.fields(message.DESCRIPTOR.full_name)
        for field, value in message.ListFields():
            name = f"{path}.{field.name}"
            if policies[field.name].data_class > HIGHEST:
                raise Leak("CLASS_TOO_HIGH", f"{name} is {policies[field.name].data_class.name}")
            if field.message_type is not None:
                for each in _messages(field.message_type, value):
                    self._check_record(each, name)


def _messages(kind: Descriptor, value: object) -> Iterable[Message]:
    """The messages in a field's value: one, several, or those of a map."""
    if isinstance(value, Message):
        return (value,)
    if kind.GetOptions().map_entry:
        if kind.fields_by_name["value"].message_type is None:
            return ()
        return value.values()  # type: ignore[attr-defined,no-any-return]
    return value  # type: ignore[return-value]


def _path(violation: object) -> str:
    elements = violation.proto.field.elements  # type: ignore[attr-defined]
    return ".".join(element.field_name for element in elements) or "message"
