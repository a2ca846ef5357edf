"""What a provider publishes, kept for a while: asked for by one at a time, and not again at once when it is away."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from mesh.clock import Clock
from security.oauth.federation.port import AwayError

T = TypeVar("T")

KEPT_S: Final = 3600.0
# So often at most a provider is asked for the same, whoever makes us ask: also for keys that it never had.
ASKED_S_MIN: Final = 10.0
AWAY_S: Final = 3.0


class Cached(Generic[T]):
    """One value. It is not used past its time, even when there is no newer one: a key may have been withdrawn."""

    def __init__(self, ask: Callable[[], Awaitable[T]], clock: Clock) -> None:
        self._ask = ask
        self._clock = clock
        self._value: T | None = None
        self._asked_at = float("-inf")
        self._failed_at = float("-inf")
        self._lock = asyncio.Lock()

    async def get(self, *, newer: bool = False) -> T:
        """The value; newer: asked for just now, unless that was only moments ago. AwayError."""
        async with self._lock:
            now = self._clock.monotonic()
            if self._value is not None and now - self._asked_at < (ASKED_S_MIN if newer else KEPT_S):
                return self._value
            if now - self._failed_at < AWAY_S:
                raise AwayError("it was away a moment ago")
            try:
                self._value = await self._ask()
            except AwayError:
                self._failed_at = self._clock.monotonic()
                raise
            self._asked_at = self._clock.monotonic()
            return self._value
