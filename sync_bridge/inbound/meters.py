"""What the inward bridge tells of itself: counts, lag by partition, freshness."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from mesh.clock import Clock
from sync_bridge.inbound.domain import Partition, Tally

# Around the aim of 100 ms, in seconds.
_FRESHNESS_BUCKETS: Final = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300)


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a partition is behind its log."""

    events: int
    # When the last record that landed was written to the log; microseconds.
    landed_us: int

    def seconds(self, now_us: int) -> float:
        """Age of the last record that landed; 0 when nothing waits. Grows by itself while nothing lands."""
        return max(0, now_us - self.landed_us) / 1e6 if self.events else 0.0


class Meters:
    def __init__(self, meter: Meter, clock: Clock) -> None:
        self._clock = clock
        self._lags: Mapping[Partition, Lag] = {}
        self._landed = meter.create_counter("bridge.inbound.landed", unit="1")
        self._duplicates = meter.create_counter("bridge.inbound.duplicates", unit="1")
        self._dead_letters = meter.create_counter("bridge.inbound.dead_letters", unit="1")
        self._freshness = meter.create_histogram(
            "bridge.inbound.freshness", unit="s", explicit_bucket_boundaries_advisory=_FRESHNESS_BUCKETS
        )
        meter.create_observable_gauge("bridge.inbound.lag_events", [self._observe_events], unit="1")
        meter.create_observable_gauge("bridge.inbound.lag", [self._observe_seconds], unit="s")

    def count(self, tallies: Mapping[Partition, Tally]) -> None:
        for partition, tally in tallies.items():
            labels = _labels(partition)
            self._landed.add(tally.landed, labels)
            self._duplicates.add(tally.duplicates, labels)
            self._dead_letters.add(tally.dead_letters, labels)

    def freshness(self, accepted_us: Iterable[int]) -> None:
        now_us = self._clock.now_us()
        for accepted in accepted_us:
            self._freshness.record(max(0, now_us - accepted) / 1e6)

    def lag(self, lags: Mapping[Partition, Lag]) -> None:
        """Replaces all: a partition that this worker lost is not told of any more."""
        self._lags = dict(lags)

    @property
    def waiting(self) -> int:
        """Records that wait in Kafka for this worker."""
        return sum(lag.events for lag in self._lags.values())

    def _observe_events(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(lag.events, _labels(partition)) for partition, lag in self._lags.items()]

    def _observe_seconds(self, _: CallbackOptions) -> Iterable[Observation]:
        now_us = self._clock.now_us()
        return [Observation(lag.seconds(now_us), _labels(partition)) for partition, lag in self._lags.items()]


def _labels(partition: Partition) -> dict[str, str | int]:
    return {"topic": partition[0], "partition": partition[1]}
