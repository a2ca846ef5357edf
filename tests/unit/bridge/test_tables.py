"""A record becomes one line of COPY, whatever its texts hold, and only declared events have a table."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isthmus.events.v1 import events_pb2

from mesh import contract
from mesh.contract.model import Direction
from sync_bridge.inbound.domain import Refused
from sync_bridge.inbound.tables import SPOOL_LEDGER, TABLES, by_topic

IMPRESSION, CLICK, *_ = TABLES
UNESCAPED = {"\\\\": "\\", "\\t": "\t", "\\n": "\n", "\\r": "\r"}


def unescape(text: str) -> str:
    out, rest = "", text
    while rest:
        taken = rest[:2] if rest[:2] in UNESCAPED else rest[:1]
        out += UNESCAPED.get(taken, taken)
        rest = rest[len(taken) :]
    return out


@given(st.text(), st.text(alphabet="\\\t\n\rNab"), st.text())
def test_a_line_holds_each_column_once_and_unharmed(slot: str, campaign: str, node: str) -> None:
    event = events_pb2.Click(event_id="ab" * 16, slot=slot, campaign_id=campaign, node=node)
    plain = events_pb2.Click(event_id="cd" * 16, node="edge-1")
    rows = [CLICK.values(each.SerializeToString(), "", 3, 7)[0] for each in (plain, event)]
    text = CLICK.text(rows)
    assert text.endswith("\n")
    first, line = text[:-1].split("\n")
    assert first.startswith("cd" * 16)
    values = dict(zip(CLICK.names, map(unescape, line.split("\t")), strict=True))
    assert (values["slot"], values["campaign_id"], values["node"]) == (slot, campaign, node)
    assert (values["record_partition"], values["record_offset"], values["trace_id"]) == ("3", "7", "")


def test_the_time_of_acceptance_comes_with_the_values() -> None:
    event = events_pb2.Impression(event_id="ab" * 16, accepted_time_us=17)
    assert IMPRESSION.values(event.SerializeToString(), "", 0, 0)[1] == 17


@pytest.mark.parametrize("payload", [b"\xff\xff", b"\x0a\x02\xff\xfe"], ids=["no message", "not UTF-8"])
def test_what_is_no_such_message_is_refused(payload: bytes) -> None:
    with pytest.raises(Refused, match="UNREADABLE"):
        CLICK.values(payload, "", 0, 0)


def test_a_newer_writer_may_send_fields_that_this_reader_does_not_know() -> None:
    event = events_pb2.Click(event_id="ab" * 16)
    values, _ = CLICK.values(event.SerializeToString() + b"\xfa\x07\x05hello", "", 0, 0)
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
