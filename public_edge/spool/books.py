"""The node's side of the ledger of conservation: what became of the events it accepted, by minute and topic.

The counts are kept with the watermark, in one file: they are of exactly the events up to it, however the process ended.
A minute's counts become a line when nothing of the minute is left to come. A line waits here until Kafka surely has it,
and has the same id however often it is sent.
"""

import hashlib
import os
import time
from collections import Counter
from collections.abc import Mapping

import msgspec

# Instead of a partition, for events that were not sent.
SET_ASIDE = -1
DAMAGED = -2
# Lines that wait for Kafka. When it is away for longer, minutes stay open and fall together later.
LINES_MAX = 10_000
MINUTE_US = 60_000_000

# (minute since the epoch, kind, partition); of a damaged event the kind is 0.
Cell = tuple[int, int, int]


class Line(msgspec.Struct, array_like=True, frozen=True):
    """One line as it is told. `partition` is -1 for events that were not sent."""

    number: int
    minute: int
    kind: int
    partition: int
    sent: int = 0
    shed: int = 0
    refused: int = 0
    set_aside: int = 0
    damaged: int = 0

    def event_id(self, spool: str) -> str:
        """32 hexadecimal digits that follow from the line alone."""
        return hashlib.sha256(spool.encode() + msgspec.json.encode(self)).hexdigest()[:32]


class _State(msgspec.Struct):
    spool: str
    number: int = 0
    cells: list[tuple[int, int, int, int]] = []
    lines: list[Line] = []
    # Declined events that are in the lines already, by kind: shed and refused.
    declined: dict[int, tuple[int, int]] = {}


class Books:
    """Belongs to the shipper's thread."""

    def __init__(self, note: bytes) -> None:
        """note: what `note` returned when the watermark was saved; b"" or anything damaged begins new books."""
        try:
            state = msgspec.json.decode(note, type=_State)
        except msgspec.DecodeError:
            state = _State(os.urandom(8).hex())
        self.spool = state.spool
        self._number = state.number
        self._cells: Counter[Cell] = Counter({(minute, kind, part): n for minute, kind, part, n in state.cells})
        self.lines: dict[int, Line] = {line.number: line for line in state.lines}
        self._declined = state.declined

    def note(self) -> bytes:
        """Everything, for keeping with the watermark."""
        cells = [(*cell, count) for cell, count in self._cells.items()]
        return msgspec.json.encode(_State(self.spool, self._number, cells, [*self.lines.values()], self._declined))

    @property
    def newest_minute(self) -> int:
        """The newest minute of which something is counted and not yet in a line; 0: there is none."""
        return max((minute for minute, _, _ in self._cells), default=0)

    @property
    def busy(self) -> bool:
        """Something of a minute that is over is counted and not yet told."""
        now_minute = time.time_ns() // 1000 // MINUTE_US
        return bool(self.lines) or any(minute < now_minute for minute, _, _ in tuple(self._cells))

    def count(self, cells: Mapping[Cell, int]) -> None:
        """Events that the watermark is about to pass."""
        self._cells.update(cells)

    def close(self, before_minute: int, declined: Mapping[int, tuple[int, int]], now_minute: int) -> None:
        """Make lines of all minutes before `before_minute`.

        declined: shed and refused events by kind, since the spool's directory was made; what is new of them counts for
        the minute before now.
        """
        found: dict[tuple[int, int, int], dict[str, int]] = {}
        for cell in [cell for cell in self._cells if cell[0] < before_minute]:
            minute, kind, partition = cell
            name = {SET_ASIDE: "set_aside", DAMAGED: "damaged"}.get(partition, "sent")
            found.setdefault((minute, kind, max(partition, -1)), {})[name] = self._cells[cell]
        if len(self.lines) + len(found) > LINES_MAX:
            return
        for minute, _, _ in found:
            self._forget(minute)
        for kind, (shed, refused) in declined.items():
            told_shed, told_refused = self._declined.get(kind, (0, 0))
            if (shed, refused) != (told_shed, told_refused):
                counts = found.setdefault((now_minute - 1, kind, -1), {})
                counts |= {"shed": shed - told_shed, "refused": refused - told_refused}
                self._declined[kind] = (shed, refused)
        for (minute, kind, partition), counts in sorted(found.items()):
            self._number += 1
            self.lines[self._number] = Line(self._number, minute, kind, partition, **counts)

    def told(self, number: int) -> None:
        """Kafka surely has the line."""
        self.lines.pop(number, None)

    def _forget(self, minute: int) -> None:
        for cell in [cell for cell in self._cells if cell[0] == minute]:
            del self._cells[cell]
