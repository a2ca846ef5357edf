"""Open-loop arrivals and what is read from their timeline."""

import asyncio
from itertools import islice

import pytest

from chaos.checkers.recovery import longest_s, normal_p99_ms, public_recovered_s, sensitive_recovered_s
from chaos.load.arrivals import Arrivals, poisson
from chaos.load.outcomes import CallFailed
from chaos.load.timeline import PUBLIC, SENSITIVE, Timeline, availability, buckets, percentile_ms

DEADLINE_S = 10.0


def test_the_same_seed_gives_the_same_arrivals_at_the_rate_asked_for() -> None:
    times = list(islice(poisson(100, seed=1), 5000))
    assert times == list(islice(poisson(100, seed=1), 5000))
    assert times == sorted(times)
    assert times[-1] == pytest.approx(50, rel=0.1)


async def test_a_slow_answer_holds_no_later_request_back() -> None:
    gate, sent = asyncio.Event(), 0

    async def send(due: float) -> None:
        nonlocal sent
        sent += 1
        if sent == 20:
            gate.set()
        # Nobody is answered before twenty have been sent.
        await gate.wait()

    arrivals = Arrivals(iter([0.0] * 20), send)
    await asyncio.wait_for(arrivals.run(), DEADLINE_S)
    assert (sent, arrivals.refused) == (20, 0)


async def test_a_fault_of_the_generator_is_no_outcome_of_a_call() -> None:
    async def send(due: float) -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        await asyncio.wait_for(Arrivals(poisson(1000, 1), send).run(), DEADLINE_S)


def timeline(bad_s: tuple[float, ...] = (), slow_s: tuple[float, ...] = (), kind: str = "ad") -> Timeline:
    """A call every tenth of a second for 20 s: 10 ms each, slow ones 500 ms."""
    found = Timeline()
    for tenth in range(200):
        due_s = tenth / 10
        if due_s in bad_s:
            found.bad(kind, due_s, 0.01, CallFailed("HTTP 503"))
        else:
            found.ok(kind, due_s, 0.5 if due_s in slow_s else 0.01)
    return found


def test_nothing_bad_is_recovered_at_once() -> None:
    assert public_recovered_s(timeline(), 5.0, 20.0, 10.0) == 0.0


def test_recovery_lasts_until_the_last_failure_or_slow_answer_and_no_longer() -> None:
    assert public_recovered_s(timeline(bad_s=(6.0,)), 5.0, 20.0, 10.0) == 1.5
    assert public_recovered_s(timeline(slow_s=(8.0,)), 5.0, 20.0, 10.0) == 3.5
    assert public_recovered_s(timeline(bad_s=(5.5,), slow_s=(8.0,)), 5.0, 20.0, 10.0) == 3.5


def test_what_is_normal_is_the_highest_of_the_windows_of_the_calm_before() -> None:
    assert normal_p99_ms(timeline(), 1.0, 9.0) == 10.0
    assert normal_p99_ms(timeline(slow_s=(5.0, 12.0)), 1.0, 9.0) == 500.0
    assert normal_p99_ms(timeline(slow_s=(0.5, 12.0)), 1.0, 9.0) == 10.0
    assert normal_p99_ms(timeline(), 1.0, 1.5) == 0.0


def test_sensitive_calls_have_recovered_after_their_last_failure() -> None:
    assert sensitive_recovered_s(timeline(kind="order"), 5.0) == 0.0
    assert sensitive_recovered_s(timeline(bad_s=(4.0, 7.0), kind="order"), 5.0) == 2.0
    assert sensitive_recovered_s(timeline(bad_s=(19.9,), kind="order"), 5.0) is None


def test_a_timeline_tells_kinds_apart() -> None:
    found = timeline(bad_s=(1.0,))
    found.ok("order", 1.0, 3.0)
    assert availability(found.calls(SENSITIVE)) == 1.0
    assert availability(found.calls(PUBLIC)) == pytest.approx(199 / 200)
    assert (longest_s(found, SENSITIVE), percentile_ms(found.calls(PUBLIC), 0.99)) == (3.0, 10.0)


def test_buckets_hold_every_call_once() -> None:
    seconds = buckets(timeline(bad_s=(3.5,)).calls(), 20.0)
    assert sum(second.calls for second in seconds) == 200
    assert [second.at_s for second in seconds if second.failed] == [3.0]


def test_the_timeline_ends_with_the_call_that_was_due_last() -> None:
    found = Timeline()
    assert found.end_s == 0
    for due_s in (1.0, 7.5, 3.0):
        found.ok("ad", due_s, 0.1)
    assert found.end_s == 7.5
    assert len(buckets(found.calls(), found.end_s)) == 8
