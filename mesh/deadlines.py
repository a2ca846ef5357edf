"""Ends calls whose time is up.

One timer watches all calls of a server: setting and clearing one for each took a tenth of their admission.
"""

import asyncio
import math
import time
from types import TracebackType
from typing import Any


class Deadlines:
    """For the tasks of one loop."""

    def __init__(self) -> None:
        self.running: set[until] = set()
        # time.monotonic() at which the timer fires.
        self.fires = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def fire_at(self, at: float) -> None:
        """Set the timer. It stays when a call ends: the next has use for it, and without one it fires for nothing."""
        if self._timer is not None:
            self._timer.cancel()
        self.fires = at
        self._timer = asyncio.get_running_loop().call_later(max(0.0, at - time.monotonic()), self._fire)

    def _fire(self) -> None:
        now = time.monotonic()
        for running in self.running:
            if running.deadline <= now:
                running.expire()
        self._timer, self.fires = None, math.inf
        nearest = min((each.deadline for each in self.running if not each.expired), default=math.inf)
        if nearest < math.inf:
            self.fire_at(nearest)


class until:  # noqa: N801 (read as a preposition: with until(...))
    """Cancels what the block awaits at `deadline`, a time.monotonic(), and raises TimeoutError: asyncio.timeout_at."""

    __slots__ = ("_deadlines", "_task", "deadline", "expired")

    def __init__(self, deadlines: Deadlines, deadline: float) -> None:
        self._deadlines = deadlines
        self.deadline = deadline
        self.expired = False
        self._task: asyncio.Task[Any] | None = None

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        deadlines = self._deadlines
        deadlines.running.add(self)
        if self.deadline < deadlines.fires:
            deadlines.fire_at(self.deadline)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._deadlines.running.remove(self)
        # Where others cancelled the task too, theirs is what counts.
        if self.expired and self._task is not None and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def expire(self) -> None:
        if not self.expired and self._task is not None:
            self.expired = True
            self._task.cancel()
