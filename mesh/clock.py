"""Time as an argument, so that rules about time can be shown without waiting for it."""

import time
from typing import Protocol


class Clock(Protocol):
    def now_us(self) -> int:
        """Microseconds since the epoch, UTC. May step."""

    def monotonic(self) -> float:
        """Seconds from some fixed point. Never steps; for measuring only."""


class SystemClock:
    def now_us(self) -> int:
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        return time.monotonic()
