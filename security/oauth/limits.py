"""How often one source may ask the token endpoint, and how long it waits after proving itself wrongly too often.

Kept in each replica: a source that is spread over both gets twice as much, and with a replica only counts are lost.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from mesh.clock import Clock

SOURCES_MAX: Final = 10_000
FREE_FAILURES: Final = 10
WAIT_S_MAX: Final = 300.0


class TooManyError(Exception):
    """This source asks too often, or has failed too often."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"wait {wait_s:.0f} s")
        self.wait_s = wait_s


@dataclass(slots=True)
class _Source:
    tokens: float
    filled_at: float
    failures: int = 0
    closed_until: float = 0.0


class Limits:
    """A token bucket for each source, and back-off that doubles with each further failure."""

    def __init__(self, per_s: float, burst: float, clock: Clock) -> None:
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._sources: OrderedDict[tuple[str, ...], _Source] = OrderedDict()

    def wait_s(self, *source: str) -> float:
        """Take one request from the source's bucket: 0, or how many seconds it should wait instead."""
        now = self._clock.monotonic()
        found = self._source(source, now)
        if found.closed_until > now:
            return found.closed_until - now
        found.tokens = min(self._burst, found.tokens + (now - found.filled_at) * self._per_s)
        found.filled_at = now
        if found.tokens < 1:
            return (1 - found.tokens) / self._per_s
        found.tokens -= 1
        return 0.0

    def failed(self, *source: str) -> None:
        """Count a failed proof, and close the source for a while after too many in a row."""
        now = self._clock.monotonic()
        found = self._source(source, now)
        found.failures += 1
        if found.failures >= FREE_FAILURES:
            found.closed_until = now + min(2.0 ** min(found.failures - FREE_FAILURES, 16), WAIT_S_MAX)

    def succeeded(self, *source: str) -> None:
        """Forget the failures of a source."""
        found = self._sources.get(source)
        if found is not None:
            found.failures = 0

    def _source(self, source: tuple[str, ...], now: float) -> _Source:
        found = self._sources.get(source)
        if found is None:
            found = self._sources[source] = _Source(self._burst, now)
            if len(self._sources) > SOURCES_MAX:
                self._sources.popitem(last=False)
        self._sources.move_to_end(source)
        return found
