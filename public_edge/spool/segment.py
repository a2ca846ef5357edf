"""One file of the spool: a header and records in the order of their sequence."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from public_edge.spool import record
from public_edge.spool.record import Record

MAGIC = b"ISPOOL01"
_HEADER = struct.Struct("<8sQ")
HEADER_BYTES = _HEADER.size


def path_of(directory: Path, first_sequence: int) -> Path:
    return directory / f"{first_sequence:020d}.seg"


def header(first_sequence: int) -> bytes:
    return _HEADER.pack(MAGIC, first_sequence)


@dataclass(slots=True)
class Damage:
    """A range of bytes that holds no sound record although sound ones follow."""

    offset: int
    end: int


@dataclass(slots=True)
class Scan:
    """What a segment holds. `end` lies behind its last sound record, `size` behind its last byte that is not 0."""

    end: int
    size: int
    first: int | None = None
    last: int | None = None
    records: int = 0
    damages: list[Damage] = field(default_factory=list)

    @property
    def torn(self) -> bool:
        return self.end < self.size


def scan(path: Path) -> Scan:
    """Read a whole segment and report its records and damages, changing nothing."""
    buffer = path.read_bytes()
    # What was allocated ahead and never written is 0.
    size = len(buffer.rstrip(b"\0"))
    found = Scan(end=HEADER_BYTES, size=size)
    offset = HEADER_BYTES
    if buffer[: len(MAGIC)] != MAGIC or len(buffer) < HEADER_BYTES:
        resumed = record.resume(buffer, -1)
        if resumed is None:
            found.end = 0
            return found
        found.damages.append(Damage(0, resumed))
        offset = resumed
    while offset < size:
        decoded = record.decode(buffer, offset)
        if decoded is None:
            resumed = record.resume(buffer, offset)
            if resumed is None:
                break
            found.damages.append(Damage(offset, resumed))
            offset = resumed
            continue
        entry, offset = decoded
        found.first = entry.sequence if found.first is None else found.first
        found.last = entry.sequence
        found.records += 1
        found.end = offset
    return found


def records(buffer: bytes, offset: int = 0) -> Iterator[tuple[Record, int]]:
    """Every sound record of a piece of a segment with the offset behind it; damages are stepped over."""
    while offset < len(buffer):
        decoded = record.decode(buffer, offset)
        if decoded is None:
            resumed = record.resume(buffer, offset)
            if resumed is None:
                return
            offset = resumed
            continue
        entry, offset = decoded
        yield entry, offset
