"""Times cross the mesh as microseconds since the epoch and lie in SQL as timestamptz. Standard library only."""

from datetime import UTC, datetime, timedelta
from typing import Final

from private_core.refusals import Malformed

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# Clocks differ; a source that is further ahead than this is wrong.
AHEAD_US_MAX: Final = 24 * 3600 * 1_000_000


def to_datetime(time_us: int) -> datetime:
    return EPOCH + timedelta(microseconds=time_us)


def to_us(time: datetime) -> int:
    return (time - EPOCH) // timedelta(microseconds=1)


def source_time(time_us: int, now_us: int) -> int:
    """When it happened at its source: `time_us`, or now for 0. Refuses the future."""
    if time_us > now_us + AHEAD_US_MAX:
        raise Malformed("SOURCE_TIME_AHEAD", "the source time lies in the future", "send microseconds since the epoch")
    return time_us or now_us
