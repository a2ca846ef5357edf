"""A bound on the rate is kept over time, and what was not used is not saved up."""

import pytest

from sync_bridge.inbound.domain import Pace


def test_without_a_bound_nothing_waits() -> None:
    pace = Pace()
    pace.took(5000, 0, 10.0)
    assert pace.wait_s(10.0) == 0


def test_batches_are_spread_so_that_the_rate_is_kept() -> None:
    pace, now, taken = Pace(), 0.0, 0
    while now < 10:
        now += pace.wait_s(now)
        pace.took(50, 200, now)
        taken += 50
    assert taken / now == pytest.approx(200, rel=0.05)


def test_a_quiet_time_gives_no_credit() -> None:
    pace = Pace()
    pace.took(100, 100, 0.0)
    assert pace.wait_s(60.0) == 0
    pace.took(100, 100, 60.0)
    assert pace.wait_s(60.0) == pytest.approx(1.0)
