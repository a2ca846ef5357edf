"""Follows a spool from its watermark on, while it is being written."""

import os

from public_edge.spool import record, segment
from public_edge.spool.record import Record
from public_edge.spool.recovery import SegmentFile
from public_edge.spool.spool import Spool

CHUNK_BYTES = 1 << 18
_LONGEST = record.HEADER_BYTES + record.PAYLOAD_BYTES_MAX


class SpoolReader:
    """Belongs to one thread. Gives each record once, in order of sequence, until told to `rewind`."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._segment: SegmentFile | None = None
        self._descriptor = -1
        self._offset = 0
        self._passed = spool.acknowledged
        # Damaged ranges met while reading.
        self.damaged = 0

    def read(self) -> list[Record]:
        """The next records, as many as a chunk holds; none when everything written has been read."""
        while self._segment is not None or self._advance():
            found = self._read_chunk()
            if found or self._segment is not None:
                return found
        return []

    def rewind(self) -> None:
        """Begin again behind the watermark."""
        self.close()
        self._passed = self._spool.acknowledged

    def close(self) -> None:
        if self._segment is not None:
            os.close(self._descriptor)
            self._segment = None

    def _advance(self) -> bool:
        """Open the segment that holds the record behind the last one passed."""
        following = self._spool.segment_behind(self._passed)
        if following is None:
            return False
        self._descriptor = os.open(following.path, os.O_RDONLY)
        self._segment, self._offset = following, segment.HEADER_BYTES
        return True

    def _read_chunk(self) -> list[Record]:
        entry = self._segment
        assert entry is not None
        end, sealed = self._spool.readable_end(entry)
        if self._offset >= end:
            if sealed:
                self._passed = max(self._passed, entry.last)
                self.close()
            return []
        chunk = os.pread(self._descriptor, min(CHUNK_BYTES, end - self._offset), self._offset)
        whole = self._offset + len(chunk) >= end
        found: list[Record] = []
        at = 0
        while at < len(chunk):
            decoded = record.decode(chunk, at)
            if decoded is None:
                if not whole and len(chunk) - at < _LONGEST:
                    break
                self.damaged += 1
                resumed = record.resume(chunk, at)
                at = resumed if resumed is not None else len(chunk) if whole else max(at + 1, len(chunk) - _LONGEST)
                continue
            item, at = decoded
            if item.sequence > self._passed:
                self._passed = item.sequence
                found.append(item)
        self._offset += at
        return found
