"""What the outward bridge tells of itself."""

from collections.abc import Iterable

from opentelemetry.metrics import CallbackOptions, Meter, Observation


class Meters:
    def __init__(self, meter: Meter) -> None:
        self._active = False
        self._waiting = (0, 0.0)
        self._sent = meter.create_counter("bridge.outbound.sent", unit="1")
        self._stopped = meter.create_counter(
            "bridge.outbound.stopped", unit="1", description="records that may not leave the private zone"
        )
        self._delay = meter.create_histogram("bridge.outbound.delay", unit="s")
        meter.create_observable_gauge("bridge.outbound.active", [self._observe_active], unit="1")
        meter.create_observable_gauge("bridge.outbound.lag_events", [self._observe_events], unit="1")
        meter.create_observable_gauge("bridge.outbound.lag", [self._observe_seconds], unit="s")

    def active(self, active: bool) -> None:
        self._active = active
        self._waiting = (0, 0.0)

    def waiting(self, events: int, oldest_s: float) -> None:
        self._waiting = (events, oldest_s)

    def sent(self, topic: str, delay_s: float) -> None:
        self._sent.add(1, {"topic": topic})
        self._delay.record(max(0.0, delay_s), {"topic": topic})

    def stopped(self, topic: str, cause: str) -> None:
        self._stopped.add(1, {"topic": topic, "cause": cause})

    def _observe_active(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(int(self._active))]

    def _observe_events(self, _: CallbackOptions) -> Iterable[Observation]:
        # Only the active relay knows.
        return [Observation(self._waiting[0])] if self._active else []

    def _observe_seconds(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(self._waiting[1])] if self._active else []
