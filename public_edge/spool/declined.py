"""Events that the spool did not take, by kind: counts in a mapped file, which outlive the process like the events."""

import mmap
import os
import struct
from pathlib import Path

KINDS_MAX = 256
_COUNTS = struct.Struct("<QQ")


class Declined:
    """Counting belongs to whoever may append just now; reading to anybody. `kind` is an event's first byte."""

    def __init__(self, directory: Path) -> None:
        """Raises OSError when the disk does not serve."""
        size = KINDS_MAX * _COUNTS.size
        descriptor = os.open(directory / "declined", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)
            self._pages = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)

    def shed(self, kind: int) -> None:
        """Dropped without an error."""
        self._add(kind, 1, 0)

    def refused(self, kind: int) -> None:
        """Not taken, with an error to the caller."""
        self._add(kind, 0, 1)

    def counts(self) -> dict[int, tuple[int, int]]:
        """(shed, refused) since the directory was made, of each kind that has any."""
        found = dict(enumerate(_COUNTS.iter_unpack(self._pages[:])))
        return {kind: (shed, refused) for kind, (shed, refused) in found.items() if shed or refused}

    def close(self) -> None:
        self._pages.close()

    def _add(self, kind: int, shed: int, refused: int) -> None:
        at = kind * _COUNTS.size
        before_shed, before_refused = _COUNTS.unpack_from(self._pages, at)
        _COUNTS.pack_into(self._pages, at, before_shed + shed, before_refused + refused)
