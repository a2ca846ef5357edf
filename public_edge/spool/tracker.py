"""Which events Kafka has acknowledged, from acknowledgements that come in any order."""

from collections import Counter, deque

from public_edge.spool.books import Cell


class Tracker:
    """Belongs to one thread. `sent` in order of sequence, `acknowledged` in any."""

    def __init__(self) -> None:
        self._waiting: deque[int] = deque()
        self._done: dict[int, tuple[Cell, int]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def sent(self, sequence: int) -> None:
        self._waiting.append(sequence)

    def acknowledged(self, sequence: int, cell: Cell, events: int = 1) -> None:
        """cell: where its books count it, and as how many events."""
        self._done[sequence] = (cell, events)

    def contiguous(self) -> tuple[int, Counter[Cell]] | None:
        """The sequence up to which everything is acknowledged and the counts since the last time; None if it stands."""
        last = None
        counts: Counter[Cell] = Counter()
        while self._waiting and (done := self._done.pop(self._waiting[0], None)) is not None:
            last = self._waiting.popleft()
            counts[done[0]] += done[1]
        return None if last is None else (last, counts)

    def clear(self) -> None:
        self._waiting.clear()
        self._done.clear()
