"""What is broken on purpose, and until when: every fault ends by itself, whoever asked for it may be dead by then."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

TTL_S_MAX = 600.0
LEASES_MAX = 64
KEY_CHARACTERS_MAX = 80

Undo = Callable[[], Awaitable[None]]


class BadFault(ValueError):
    """A fault that names nothing real or lives too long. Nothing was touched."""


@dataclass(frozen=True)
class Lease:
    """One fault that lasts. `what` is for people."""

    key: str
    what: str
    ends_at: float
    undo: Undo


class Leases:
    """Not for several threads: everything happens on one loop."""

    def __init__(self) -> None:
        self._leases: dict[str, Lease] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def check(self, key: object, ttl_s: object) -> tuple[str, float]:
        """The key and the time to live in seconds; called before anything is broken. The key is the caller's own,
        so that how to undo a fault can be written down before it is made.

        Raises:
            BadFault: the key is none or is in use, the time is out of bounds, or too much is broken already.
        """
        if not isinstance(key, str) or not 1 <= len(key) <= KEY_CHARACTERS_MAX or key in self._leases:
            raise BadFault(f"lease must be a new name of at most {KEY_CHARACTERS_MAX} characters")
        if isinstance(ttl_s, bool) or not isinstance(ttl_s, int | float) or not 0 < ttl_s <= TTL_S_MAX:
            raise BadFault(f"ttl_s must be a number of seconds up to {TTL_S_MAX:g}")
        if len(self._leases) >= LEASES_MAX:
            raise BadFault(f"{LEASES_MAX} faults are active: heal some first")
        return key, float(ttl_s)

    def begin(self, key: str, what: str, ttl_s: float, undo: Undo) -> None:
        """Remember a fault that is made now; `undo` runs once, at `end` or after `ttl_s`."""
        self._leases[key] = Lease(key, what, time.monotonic() + ttl_s, undo)
        self._tasks[key] = asyncio.create_task(self._expire(key, ttl_s))

    async def end(self, key: object) -> int:
        """Undo a fault now; without a key, all. Returns how many: healing twice is healing once."""
        keys = list(self._leases) if key is None else [key]
        ended = 0
        for one in keys:
            lease = self._leases.pop(str(one), None)
            task = self._tasks.pop(str(one), None)
            if task is not None and task is not asyncio.current_task():
                task.cancel()
            if lease is not None:
                await lease.undo()
                ended += 1
        return ended

    def active(self) -> list[dict[str, object]]:
        """lease, what, seconds left."""
        now = time.monotonic()
        return [
            {"lease": one.key, "what": one.what, "seconds_left": round(one.ends_at - now, 1)}
            for one in self._leases.values()
        ]

    async def _expire(self, key: str, ttl_s: float) -> None:
        await asyncio.sleep(ttl_s)
        await self.end(key)
