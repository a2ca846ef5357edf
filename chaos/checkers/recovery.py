"""How long the mesh took to be itself again, read from the timeline of its answers."""

from collections.abc import Iterator, Sequence

from chaos.load.outcomes import Outcome
from chaos.load.timeline import PUBLIC, SENSITIVE, Call, Timeline, percentile_ms

NORMAL_TIMES = 2.0
WINDOW_S = 2.0
STEP_S = 0.5


def normal_p99_ms(timeline: Timeline, from_s: float, until_s: float) -> float:
    """What p99 is while there is nothing but the traffic: the highest of any window of that time.

    Of the same windows as afterwards: the percentile of all that time together is lower than that of some window always
    is, also where nothing is wrong.
    """
    return max((percentile_ms(window, 0.99) for _, window in _windows(timeline, from_s, until_s)), default=0.0)


def public_recovered_s(timeline: Timeline, fault_at_s: float, until_s: float, normal_ms: float) -> float:
    """Seconds from the fault until the moment from which on no call fails and p99 stays within twice its normal: at
    each moment that of the calls of the WINDOW_S that follow.

    0 when it never left that. Windows begin every STEP_S: what was bad for a moment counts for no longer than it was.
    """
    recovered_s = 0.0
    for begins_s, window in _windows(timeline, fault_at_s, until_s):
        failed = any(call.outcome is not Outcome.OK for call in window)
        if failed or percentile_ms(window, 0.99) > NORMAL_TIMES * normal_ms:
            recovered_s = begins_s + STEP_S - fault_at_s
    return round(recovered_s, 1)


def _windows(timeline: Timeline, from_s: float, until_s: float) -> Iterator[tuple[float, list[Call]]]:
    """When each begins, and the public calls that were due in it."""
    calls = list(timeline.calls(PUBLIC, from_s, until_s))
    steps = max(0, int((until_s - WINDOW_S - from_s) / STEP_S + 1))
    for begins_s in (from_s + STEP_S * step for step in range(steps)):
        yield begins_s, [call for call in calls if begins_s <= call.due_s < begins_s + WINDOW_S]


def sensitive_recovered_s(timeline: Timeline, healed_at_s: float) -> float | None:
    """Seconds from the healing until the last call that failed was due; None when none went well after that."""
    calls = sorted(timeline.calls(SENSITIVE, healed_at_s), key=lambda call: call.due_s)
    bad = [call.due_s for call in calls if call.outcome is not Outcome.OK]
    last_bad = max(bad, default=healed_at_s)
    if not any(call.due_s > last_bad and call.outcome is Outcome.OK for call in calls):
        return None
    return round(last_bad - healed_at_s, 1)


def failover_s(timeline: Timeline, fault_at_s: float) -> float:
    """Seconds from the fault until the last sensitive call that failed was due; 0 when none failed."""
    bad = [call.due_s for call in timeline.calls(SENSITIVE, fault_at_s) if call.outcome is not Outcome.OK]
    return round(max(bad, default=fault_at_s) - fault_at_s, 1)


def longest_s(timeline: Timeline, kinds: Sequence[str]) -> float:
    return round(max((call.seconds for call in timeline.calls(kinds)), default=0.0), 2)


def refused_s(timeline: Timeline, kinds: Sequence[str], share: float = 0.9) -> float | None:
    """Seconds within which this share of the calls that failed were told so; None when none failed."""
    took = sorted(call.seconds for call in timeline.calls(kinds) if call.outcome is not Outcome.OK)
    return round(took[min(len(took) - 1, int(share * len(took)))], 2) if took else None


def failed(timeline: Timeline, kinds: Sequence[str]) -> int:
    return sum(call.outcome is not Outcome.OK for call in timeline.calls(kinds))
