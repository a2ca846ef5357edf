"""One bad record does not keep the good ones from landing."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync_bridge.inbound.domain import GapError, Refused, Watermarks, check_continuity, isolate, trace_of


class Table:
    """Takes all or nothing, and refuses whatever holds a negative number."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.tries = 0

    def accept(self, items: Sequence[int]) -> None:
        self.tries += 1
        if any(item < 0 for item in items):
            raise Refused("REFUSED", "negative")
        self.rows += items


@given(st.lists(st.integers(-3, 100), max_size=200))
def test_every_record_lands_or_is_buried_once_and_in_order(items: list[int]) -> None:
    table, buried = Table(), list[int]()
    isolate(items, table.accept, lambda item, _: buried.append(item))
    assert table.rows == [item for item in items if item >= 0]
    assert buried == [item for item in items if item < 0]


def test_one_bad_record_costs_few_tries() -> None:
    table, buried = Table(), list[int]()
    isolate([*range(2000), -1, *range(2000)], table.accept, lambda item, _: buried.append(item))
    assert buried == [-1]
    assert table.tries <= 2 * 13


@pytest.mark.parametrize(("checkpoint", "low", "high"), [(0, 0, 0), (5, 5, 5), (5, 0, 9), (9, 0, 9)])
def test_a_log_that_holds_all_from_the_checkpoint_on_goes_on(checkpoint: int, low: int, high: int) -> None:
    check_continuity(("t", 0), checkpoint, Watermarks(low, high))


@pytest.mark.parametrize(("checkpoint", "low", "high"), [(4, 5, 9), (10, 0, 9), (1, 0, 0)])
def test_a_log_with_a_gap_stops(checkpoint: int, low: int, high: int) -> None:
    with pytest.raises(GapError, match="t/0"):
        check_continuity(("t", 0), checkpoint, Watermarks(low, high))


def test_the_trace_id_is_read_from_a_traceparent() -> None:
    assert trace_of(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01") == "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        b"00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        b"01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
        b"\xff" * 55,
    ],
)
def test_whatever_else_is_there_is_no_trace(value: bytes | None) -> None:
    assert trace_of(value) == ""
