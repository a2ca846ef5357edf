"""Rules of the inward bridge: what is refused, what is lost, and how one bad record is found among good ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

T = TypeVar("T")
_HEX: Final = b"0123456789abcdef"
_NO_TRACE: Final = b"0" * 32

# (topic, partition)
Partition = tuple[str, int]


class Refused(Exception):
    """A record that cannot land as it is. `cause` is for programs, `detail` for people."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(f"{cause}: {detail}")
        self.cause = cause
        self.detail = detail


class Fenced(Exception):
    """Another worker has taken the partition since; nothing of this transaction may stay."""


class GapError(Exception):
    """Records that were never landed are gone, or the topic is another one: going on would skip them silently."""


class NotDrained(Exception):
    """Records of the log that is to be left have not landed."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A partition as this worker holds it."""

    epoch: int
    # The next offset to land.
    next_offset: int


@dataclass(frozen=True, slots=True)
class Flow:
    """What operators want of the flow inward."""

    paused: bool = False
    # 0: no bound.
    records_per_s_max: int = 0


class Pace:
    """Spreads records over time: at most so many a second, and no credit for a second that was quiet."""

    def __init__(self) -> None:
        self._free_at = 0.0

    def wait_s(self, now: float) -> float:
        """How long to wait before the next batch."""
        return max(0.0, self._free_at - now)

    def took(self, records: int, per_s_max: int, now: float) -> None:
        if per_s_max:
            self._free_at = max(self._free_at, now) + records / per_s_max


@dataclass(frozen=True, slots=True)
class Watermarks:
    """What the broker has of a partition: offsets from `low` on, up to but not including `high`."""

    low: int
    high: int


@dataclass(slots=True)
class Tally:
    """What became of the records of one partition in one transaction."""

    landed: int = 0
    duplicates: int = 0
    dead_letters: int = 0


class Record(Protocol):
    """A record as the client library hands it out, errors aside."""

    def topic(self) -> str: ...
    def partition(self) -> int: ...
    def offset(self) -> int: ...
    def key(self) -> bytes | None: ...
    def value(self) -> bytes | None: ...
    def headers(self) -> list[tuple[str, bytes | None]] | None: ...
    def timestamp(self) -> tuple[int, int]:
        """(kind of time, milliseconds since the epoch)"""


def check_continuity(partition: Partition, checkpoint: int, log: Watermarks) -> None:
    """Raise GapError unless the log still has everything from the checkpoint on.

    A checkpoint beyond the log's end means that the log was cut off or made anew.
    """
    name = f"{partition[0]}/{partition[1]}"
    if checkpoint < log.low:
        raise GapError(f"{name}: records {checkpoint} to {log.low - 1} were removed before they landed")
    if checkpoint > log.high:
        raise GapError(f"{name}: landed up to {checkpoint} but the log ends at {log.high}: it was cut off or made anew")


def isolate(items: Sequence[T], accept: Callable[[Sequence[T]], None], bury: Callable[[T, Refused], None]) -> None:
    """Have every item accepted but those that are refused on their own, by halving: n log2(len) tries for n bad ones.

    `accept` takes all of what it is given or nothing, and raises Refused where the database will not have it. It is
    called with items in their order.
    """
    if not items:
        return
    try:
        accept(items)
    except Refused as refused:
        if len(items) == 1:
            bury(items[0], refused)
            return
        middle = len(items) // 2
        isolate(items[:middle], accept, bury)
        isolate(items[middle:], accept, bury)


def trace_of(traceparent: bytes | None) -> str:
    """The trace id in a W3C traceparent of version 00, or "" when it is absent or malformed."""
    if traceparent is None or len(traceparent) != 55 or not traceparent.startswith(b"00-"):
        return ""
    trace_id = traceparent[3:35]
    # Without its digits nothing is left of it: quicker than an expression that says the same.
    if trace_id.translate(None, _HEX) or trace_id == _NO_TRACE or traceparent[35:36] != b"-":
        return ""
    return trace_id.decode()
