"""What keeps callers from burying a service that is down: a budget for retries, and a circuit that opens."""

import time
from collections.abc import Callable
from typing import Final

# Retries that may be made before any call has earned one: without them a service that is seldom called gets none.
RESERVE: Final = 10.0
# Calls in a row that reached nobody, after which nobody tries for a while.
FAILURES_MAX: Final = 20
OPEN_S: Final = 0.5


class RetryBudget:
    """Each call earns a part of a retry, each retry costs one: a share of the live calls, and a small reserve."""

    def __init__(self, percent: int) -> None:
        self._earned = percent / 100
        self._balance = RESERVE

    def earn(self) -> None:
        self._balance = min(RESERVE, self._balance + self._earned)

    def spend(self) -> bool:
        """Whether one more retry may be made."""
        if self._balance < 1:
            return False
        self._balance -= 1
        return True


class Circuit:
    """Closed while calls arrive. Opens when many in a row reached nobody; then lets one in at a time to find out."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._failures = 0
        self._open_until = 0.0

    def admits(self) -> bool:
        """Whether a call may be made now. While the circuit is open, one is let in each time OPEN_S have passed."""
        if self._failures < FAILURES_MAX:
            return True
        now = self._now()
        if now < self._open_until:
            return False
        self._open_until = now + OPEN_S
        return True

    def reached(self) -> None:
        """Somebody answered, be it with an error."""
        self._failures = 0

    def missed(self) -> None:
        """Nobody answered."""
        self._failures += 1
        if self._failures == FAILURES_MAX:
            self._open_until = self._now() + OPEN_S
