"""Nothing leaves the private zone but declared events whose every field may be seen there."""

from dataclasses import replace

import pytest
from isthmus.catalog.v1 import catalog_pb2
from isthmus.members.v1 import members_pb2

from mesh import contract
from mesh.contract import Contract
from mesh.contract.model import DataClass, Direction
from mesh.errors import FailedPrecondition
from sync_bridge.outbound.gate import Gate, Leak

CAMPAIGNS, ITEMS = "isthmus.campaign.v1", "isthmus.content-item.v1"
SUMMER = catalog_pb2.Campaign(
    campaign_id="summer",
    slots=["position-1"],
    targeting={"user_feature_0": "a"},
    weight=1,
    creatives=[
        catalog_pb2.AdCreative(
            creative_id="c-1", title="A", image_url="https://cdn.example/a.png", landing_url="https://shop.example/a"
        )
    ],
)
# Field 127, of which no message knows.
PLANTED = b"\xfa\x07\x05hello"


@pytest.fixture(scope="module")
def gate() -> Gate:
    return Gate(contract.load())


def reclassified(message: str, field: str, data_class: DataClass) -> Contract:
    whole = contract.load()
    fields = {**whole.messages[message], field: replace(whole.messages[message][field], data_class=data_class)}
    return replace(whole, messages={**whole.messages, message: fields})


def test_a_declared_event_passes_unchanged(gate: Gate) -> None:
    admitted = gate.admit(CAMPAIGNS, "summer", SUMMER.SerializeToString())
    assert admitted is not None
    assert catalog_pb2.Campaign.FromString(admitted) == SUMMER


def test_a_tombstone_passes(gate: Gate) -> None:
    assert gate.admit(CAMPAIGNS, "summer", None) is None


@pytest.mark.parametrize("topic", ["isthmus.member.v1", "isthmus.click.v1", ""])
def test_a_topic_that_is_not_outward_is_closed(gate: Gate, topic: str) -> None:
    with pytest.raises(Leak, match="NOT_OUTWARD"):
        gate.admit(topic, "summer", SUMMER.SerializeToString())


def test_an_unknown_field_is_refused(gate: Gate) -> None:
    with pytest.raises(Leak, match="UNKNOWN_FIELD"):
        gate.admit(CAMPAIGNS, "summer", SUMMER.SerializeToString() + PLANTED)


def test_an_unknown_field_deep_inside_is_refused(gate: Gate) -> None:
    campaign = catalog_pb2.Campaign()
    campaign.CopyFrom(SUMMER)
    campaign.creatives[0].MergeFromString(PLANTED)
    with pytest.raises(Leak, match=r"creatives holds fields"):
        gate.admit(CAMPAIGNS, "summer", campaign.SerializeToString())


def test_a_value_hidden_behind_another_does_not_leave(gate: Gate) -> None:
    """Of a field that stands twice, parsers show the last one; the first would travel in the bytes unseen."""
    hidden = catalog_pb2.Campaign(campaign_id="+8613812340099").SerializeToString()
    admitted = gate.admit(CAMPAIGNS, "summer", hidden + SUMMER.SerializeToString())
    assert admitted is not None
    assert b"13812340099" not in admitted


def test_a_record_of_another_kind_is_refused_even_where_it_parses(gate: Gate) -> None:
    member = members_pb2.Member(member_id="m-1", phone="+8613812340099", name="Li")
    catalog_pb2.ContentItem.FromString(member.SerializeToString())
    with pytest.raises(Leak):
        gate.admit(ITEMS, "m-1", member.SerializeToString())


def test_the_reason_names_no_value(gate: Gate) -> None:
    member = members_pb2.Member(member_id="m-1", phone="+8613812340099", name="Li")
    with pytest.raises(Leak) as stopped:
        gate.admit(ITEMS, "m-1", member.SerializeToString())
    assert "138" not in str(stopped.value)


def test_a_key_that_is_not_the_records_own_is_refused(gate: Gate) -> None:
    with pytest.raises(Leak, match="KEY_DIFFERS"):
        gate.admit(CAMPAIGNS, "+8613812340099", SUMMER.SerializeToString())


@pytest.mark.parametrize(
    ("message", "field"),
    [("isthmus.catalog.v1.Campaign", "targeting"), ("isthmus.catalog.v1.AdCreative", "title")],
    ids=["of the event", "of a message within"],
)
def test_an_event_that_could_hold_personal_data_keeps_the_bridge_from_starting(message: str, field: str) -> None:
    with pytest.raises(FailedPrecondition, match=f"{field} is PERSONAL"):
        Gate(reclassified(message, field, DataClass.PERSONAL))


@pytest.mark.parametrize(
    ("message", "field"), [("isthmus.catalog.v1.Campaign", "targeting"), ("isthmus.catalog.v1.AdCreative", "title")]
)
def test_each_record_is_checked_again(gate: Gate, monkeypatch: pytest.MonkeyPatch, message: str, field: str) -> None:
    """As if the check at the start had been fooled."""
    monkeypatch.setattr(gate, "_contract", reclassified(message, field, DataClass.PERSONAL))
    with pytest.raises(Leak, match="CLASS_TOO_HIGH"):
        gate.admit(CAMPAIGNS, "summer", SUMMER.SerializeToString())


def test_a_member_declared_outward_by_mistake_keeps_the_bridge_from_starting() -> None:
    whole = contract.load()
    event = replace(
        whole.events["isthmus.catalog.v1.Campaign"],
        message="isthmus.members.v1.Member",
        topic="isthmus.member.v1",
        direction=Direction.OUTWARD,
        key_field="member_id",
    )
    with pytest.raises(FailedPrecondition, match="PERSONAL"):
        Gate(replace(whole, events={**whole.events, event.message: event}))


def test_a_record_that_the_broker_would_not_take_is_stopped_here(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sync_bridge.outbound.gate.RECORD_BYTES_MAX", 10)
    with pytest.raises(Leak, match="TOO_LARGE"):
        gate.admit(CAMPAIGNS, "summer", SUMMER.SerializeToString())


def test_an_event_that_holds_what_stays_in_its_region_stops_the_start() -> None:
    """However deep: a creative stands in a campaign."""
    resident = frozenset({catalog_pb2.AdCreative.DESCRIPTOR.full_name})
    with pytest.raises(FailedPrecondition, match="RESIDENT_DECLARED"):
        Gate(replace(contract.load(), resident=resident))
    assert contract.load().resident == {members_pb2.Member.DESCRIPTOR.full_name}
