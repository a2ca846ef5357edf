"""Which events Kafka has acknowledged, from acknowledgements that come in any order."""

from collections import deque


class Tracker:
    """Belongs to one thread. `sent` in order of sequence, `acknowledged` in any."""

    def __init__(self) -> None:
        self._waiting: deque[int] = deque()
        self._done: set[int] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    def sent(self, sequence: int) -> None:
        self._waiting.append(sequence)

    def acknowledged(self, sequence: int) -> None:
        self._done.add(sequence)

    def contiguous(self) -> int | None:
        """The sequence up to which everything is acknowledged, when it has moved since the last time."""
        last = None
        while self._waiting and self._waiting[0] in self._done:
            last = self._waiting.popleft()
            self._done.discard(last)
        return last

    def clear(self) -> None:
        self._waiting.clear()
        self._done.clear()
