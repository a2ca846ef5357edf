"""Events may come from a file; a line that is none stops the reading before anything of its group is taken."""

import pytest
from isthmus.events.v1 import events_pb2

from public_edge.spool.__main__ import main, parse
from public_edge.spool.event import Kind, unpack

CLICK = events_pb2.Click(event_id="ab" * 16, slot="top", accepted_time_us=1)


def test_a_line_becomes_the_event_as_an_edge_node_would_spool_it() -> None:
    event = unpack(parse(b"2 " + CLICK.SerializeToString().hex().encode() + b"\n"))
    assert (Kind(event.kind), event.event_id.hex(), event.traceparent) == (Kind.CLICK, "ab" * 16, b"")
    assert events_pb2.Click.FromString(event.body) == CLICK


@pytest.mark.parametrize("line", [b"", b"9 0a", b"2 zz", b"2 ffff", b"click 0a", b"2 0a0161"])
def test_what_is_no_event_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):
        parse(line)


def test_it_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "python -m public_edge.spool DIRECTORY" in capsys.readouterr().err
