"""Edge and bridge are released apart: each reads what the other's older and newer build writes."""

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field
from isthmus.events.v1 import events_pb2

from sync_bridge.inbound.tables import TABLES

CLICK = next(table for table in TABLES if table.name == "click")
STATED = {"event_id": "ab" * 16, "accepted_time_us": 17, "node": "edge-1", "slot": "top", "creative_id": "shoes-1"}


def written(
    values: dict[str, object], *, renamed: dict[str, str], removed: str = "", added: Field | None = None
) -> bytes:
    """A click as a build writes it whose contract differs: its own class, made of another descriptor."""
    kind = descriptor_pb2.DescriptorProto()
    events_pb2.Click.DESCRIPTOR.CopyToProto(kind)
    kind.ClearField("options")
    for field in kind.field:
        field.ClearField("options")
        field.name = renamed.get(field.name, field.name)
        field.ClearField("json_name")
    kept = [field for field in kind.field if field.name != removed]
    del kind.field[:]
    kind.field.extend([*kept, *([added] if added else [])])
    pool = descriptor_pool.DescriptorPool()
    pool.Add(descriptor_pb2.FileDescriptorProto(name="other.proto", syntax="proto3", message_type=[kind]))
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName("Click"))
    return message(**values).SerializeToString()


def landed(payload: bytes) -> dict[str, object]:
    values = CLICK.values(payload, "", 0, 0)
    assert values[CLICK.accepted] == 17
    return dict(zip(CLICK.names, values, strict=True))


PLAIN = landed(events_pb2.Click(**STATED).SerializeToString())  # type: ignore[arg-type]


def test_a_field_that_a_newer_writer_adds_is_passed_over() -> None:
    added = Field(name="weather", number=99, type=Field.TYPE_STRING, label=Field.LABEL_OPTIONAL)
    assert landed(written({**STATED, "weather": "rain"}, renamed={}, added=added)) == PLAIN


def test_a_field_that_an_older_writer_does_not_know_lands_as_not_stated() -> None:
    stated = {name: value for name, value in STATED.items() if name != "creative_id"}
    assert landed(written(stated, renamed={}, removed="creative_id")) == PLAIN | {"creative_id": ""}


def test_a_field_that_has_another_name_is_the_same_field() -> None:
    stated = {{"slot": "place"}.get(name, name): value for name, value in STATED.items()}
    assert landed(written(stated, renamed={"slot": "place"})) == PLAIN


@pytest.mark.parametrize("number", [5, 7])
def test_a_number_that_is_used_again_for_another_type_is_no_value_of_the_old_one(number: int) -> None:
    """Which `buf breaking` keeps from being released; the rest of the event lands all the same."""
    name = events_pb2.Click.DESCRIPTOR.fields_by_number[number].name
    stated = {each: value for each, value in STATED.items() if each != name}
    other = Field(name="other", number=number, type=Field.TYPE_INT64, label=Field.LABEL_OPTIONAL)
    assert landed(written({**stated, "other": 5}, renamed={}, removed=name, added=other)) == PLAIN | {name: ""}
