"""The node's side of the ledger counts every event once, whatever happens to the process in between."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from public_edge.spool.books import DAMAGED, SET_ASIDE, Books

CLICK, IMPRESSION = 2, 1
CELLS = st.tuples(st.integers(100, 104), st.sampled_from([IMPRESSION, CLICK]), st.integers(SET_ASIDE, 3))


def test_a_closed_minute_becomes_a_line_for_each_topic_and_partition() -> None:
    books = Books(b"")
    books.count({(100, CLICK, 0): 3, (100, CLICK, 1): 2, (100, IMPRESSION, SET_ASIDE): 1, (101, CLICK, 0): 7})
    books.count({(100, CLICK, 0): 1, (100, 0, DAMAGED): 4})
    books.close(101, {}, 102)
    lines = [
        (line.minute, line.kind, line.partition, line.sent, line.set_aside, line.damaged)
        for line in books.lines.values()
    ]
    assert lines == [
        (100, 0, -1, 0, 0, 4),
        (100, IMPRESSION, -1, 0, 1, 0),
        (100, CLICK, 0, 4, 0, 0),
        (100, CLICK, 1, 2, 0, 0),
    ]
    books.close(101, {}, 102)
    assert len(books.lines) == 4
    assert books.newest_minute == 101


def test_what_the_spool_declined_is_told_once() -> None:
    books = Books(b"")
    books.close(0, {IMPRESSION: (5, 0)}, 200)
    books = Books(books.note())
    books.close(0, {IMPRESSION: (5, 0), CLICK: (0, 2)}, 201)
    told = [(line.minute, line.kind, line.shed, line.refused) for line in books.lines.values()]
    assert told == [(199, IMPRESSION, 5, 0), (200, CLICK, 0, 2)]


def test_a_line_has_the_same_id_in_every_process_until_it_is_told() -> None:
    books = Books(b"")
    books.count({(100, CLICK, 0): 1})
    books.close(101, {}, 101)
    again = Books(books.note())
    assert again.spool == books.spool
    assert [line.event_id(again.spool) for line in again.lines.values()] == [
        line.event_id(books.spool) for line in books.lines.values()
    ]
    again.told(1)
    assert Books(again.note()).lines == {}


@pytest.mark.parametrize("step", [-60, 60])
def test_a_clock_that_steps_delays_lines_and_loses_none(step: int) -> None:
    """By an hour, either way, in the middle of a minute."""
    books, told = Books(b""), 0
    books.count({(100, CLICK, 0): 3})
    books.close(100, {}, 100)
    books.count({(100 + step, CLICK, 0): 4, (100, CLICK, 0): 1})
    for minute in (100 + step, 101 + step, 99, 101, 102, 102 + abs(step)):
        books.close(minute, {}, minute)
        for number, line in list(books.lines.items()):
            told += line.sent
            assert line.minute < minute
            books.told(number)
    assert told == 8
    assert not books.busy


def test_damaged_books_begin_anew_under_another_name() -> None:
    books = Books(b"")
    assert Books(books.note()[:-1]).spool != books.spool


@given(st.lists(st.tuples(st.sampled_from(["count", "save", "die", "close"]), CELLS), max_size=60))
def test_lines_and_counts_are_those_of_the_events_up_to_the_watermark(
    steps: list[tuple[str, tuple[int, int, int]]],
) -> None:
    """The watermark and its note are saved together, so what is counted is what lies below it, after any death."""
    books, saved, below, passed = Books(b""), b"", 0, 0
    for step, cell in steps:
        if step == "count":
            books.count({cell: 1})
            passed += 1
        elif step == "save":
            saved, below = books.note(), passed
        elif step == "close":
            books.close(cell[0], {}, 200)
        else:
            books, passed = Books(saved), below
        left = Books(books.note())
        left.close(1000, {}, 1000)
        assert sum(line.sent + line.set_aside for line in left.lines.values()) == passed
