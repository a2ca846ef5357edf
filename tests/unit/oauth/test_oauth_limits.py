"""Sources are bounded one by one, and failures make each of them wait longer."""

from security.oauth import limits as limits_module
from security.oauth.limits import FREE_FAILURES, WAIT_S_MAX, Limits


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def now_us(self) -> int:
        return int(self.now_s * 1e6)

    def monotonic(self) -> float:
        return self.now_s


def test_a_burst_is_let_through_and_then_the_rate() -> None:
    clock = FakeClock()
    limits = Limits(per_s=2, burst=3, clock=clock)
    assert [limits.wait_s("a") for _ in range(3)] == [0, 0, 0]
    assert limits.wait_s("a") == 0.5
    assert limits.wait_s("b") == 0
    clock.now_s += 0.5
    assert limits.wait_s("a") == 0
    assert limits.wait_s("a") > 0


def test_each_further_failure_costs_twice_as_long_a_wait_up_to_a_limit() -> None:
    clock = FakeClock()
    limits = Limits(per_s=1000, burst=1000, clock=clock)
    waits = []
    for _ in range(FREE_FAILURES + 12):
        limits.failed("a")
        waits.append(limits.wait_s("a"))
        clock.now_s += waits[-1]
    assert waits[: FREE_FAILURES - 1] == [0] * (FREE_FAILURES - 1)
    assert [round(wait) for wait in waits[FREE_FAILURES - 1 : FREE_FAILURES + 2]] == [1, 2, 4]
    assert max(waits) <= WAIT_S_MAX
    limits.succeeded("a")
    limits.failed("a")
    assert limits.wait_s("a") == 0


def test_the_memory_for_sources_is_bounded() -> None:
    limits = Limits(per_s=1, burst=1, clock=FakeClock())
    for number in range(limits_module.SOURCES_MAX + 10):
        limits.wait_s(str(number))
    assert len(limits._sources) == limits_module.SOURCES_MAX
