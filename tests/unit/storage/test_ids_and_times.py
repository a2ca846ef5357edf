"""Ids are version 7 UUIDs that sort by time; times keep their microseconds."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from private_core.identifiers import new_id
from private_core.refusals import Malformed
from private_core.times import AHEAD_US_MAX, source_time, to_datetime, to_us

NOW_US = 1_790_000_000_000_000


@given(st.integers(0, 2**48 - 2))
def test_an_id_says_its_millisecond_and_sorts_by_it(ms: int) -> None:
    one, next_one = new_id(ms * 1000), new_id((ms + 1) * 1000)
    parsed = uuid.UUID(one)
    assert (parsed.version, parsed.variant, parsed.int >> 80) == (7, uuid.RFC_4122, ms)
    assert one < next_one


def test_ids_of_one_moment_differ() -> None:
    assert len({new_id(NOW_US) for _ in range(1000)}) == 1000


@given(st.integers(0, NOW_US))
def test_a_time_comes_back_to_the_microsecond(time_us: int) -> None:
    assert to_us(to_datetime(time_us)) == time_us


def test_no_source_time_means_now_and_the_future_is_refused() -> None:
    assert source_time(0, NOW_US) == NOW_US
    assert source_time(NOW_US + AHEAD_US_MAX, NOW_US) == NOW_US + AHEAD_US_MAX
    with pytest.raises(Malformed, match="SOURCE_TIME_AHEAD"):
        source_time(NOW_US + AHEAD_US_MAX + 1, NOW_US)
