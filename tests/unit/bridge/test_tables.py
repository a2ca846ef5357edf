"""A value is of its column's type or is refused, and only declared events have a table."""

from collections import Counter
from dataclasses import replace
from string import hexdigits
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isthmus.events.v1 import events_pb2

from mesh import contract
from mesh.contract.model import Direction
from sync_bridge.inbound import binary
from sync_bridge.inbound.domain import Refused
from sync_bridge.inbound.tables import SPOOL_LEDGER, TABLES, by_topic

IMPRESSION, CLICK, *_ = TABLES
HEX = set(hexdigits)
NULL = b"\xff\xff\xff\xff"


def test_the_time_of_acceptance_comes_with_the_values() -> None:
    event = events_pb2.Impression(event_id="ab" * 16, accepted_time_us=17)
    assert IMPRESSION.values(event.SerializeToString(), "", 0, 0)[IMPRESSION.accepted] == 17


@given(st.lists(st.uuids().map(lambda each: each.hex) | st.just("") | st.text(max_size=40)))
def test_an_id_is_sixteen_bytes_or_absent_or_refused(ids: list[str]) -> None:
    good = [not each or (len(each) == 32 and set(each) <= HEX) for each in ids]
    if all(good):
        assert binary.encode("uuid", ids) == [b"\0\0\0\x10" + bytes.fromhex(each) if each else NULL for each in ids]
    else:
        with pytest.raises(Refused, match="NOT_OF_ITS_TYPE"):
            binary.encode("uuid", ids)


@pytest.mark.parametrize(
    ("kind", "value"),
    [("integer", 2**31), ("bigint", 2**63), ("timestamptz", 253_402_300_800_000_000), ("uuid", "ab " * 8 + "abababab")],
)
def test_a_value_that_its_type_cannot_hold_is_refused_and_not_told(kind: str, value: Any) -> None:
    with pytest.raises(Refused) as refused:
        binary.encode(kind, [value])
    assert str(value) not in str(refused.value)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2), st.sampled_from(["edge-1", "edge-2"]), st.sampled_from([0, 59_999_999, 60_000_000])
        ),
        min_size=1,
    )
)
def test_a_cell_counts_the_rows_of_its_partition_node_and_minute(rows: list[tuple[int, str, int]]) -> None:
    values = [
        CLICK.values(events_pb2.Click(node=node, accepted_time_us=us).SerializeToString(), "", partition, 0)
        for partition, node, us in rows
    ]
    assert CLICK.copies(values).cells == Counter((partition, node, us // 60_000_000) for partition, node, us in rows)


@pytest.mark.parametrize("payload", [b"\xff\xff", b"\x0a\x02\xff\xfe"], ids=["no message", "not UTF-8"])
def test_what_is_no_such_message_is_refused(payload: bytes) -> None:
    with pytest.raises(Refused, match="UNREADABLE"):
        CLICK.values(payload, "", 0, 0)


def test_a_newer_writer_may_send_fields_that_this_reader_does_not_know() -> None:
    event = events_pb2.Click(event_id="ab" * 16)
    values = CLICK.values(event.SerializeToString() + b"\xfa\x07\x05hello", "", 0, 0)
    assert values[0] == "ab" * 16


def test_the_allow_list_is_the_contracts_inward_events() -> None:
    assert by_topic(contract.load()) == {
        "isthmus.impression.v1": TABLES[0],
        "isthmus.click.v1": TABLES[1],
        "isthmus.content-view.v1": TABLES[2],
        "isthmus.content-receipt.v1": TABLES[3],
        "isthmus.spool-ledger.v1": SPOOL_LEDGER,
    }


def test_an_inward_event_without_a_table_stops_the_start() -> None:
    whole = contract.load()
    campaign = replace(whole.events["isthmus.catalog.v1.Campaign"], direction=Direction.INWARD)
    with pytest.raises(LookupError, match="Campaign"):
        by_topic(replace(whole, events={**whole.events, campaign.message: campaign}))


def test_a_table_without_an_event_stops_the_start() -> None:
    whole = contract.load()
    events = {name: event for name, event in whole.events.items() if not name.endswith("Click")}
    with pytest.raises(LookupError, match="Click"):
        by_topic(replace(whole, events=events))
