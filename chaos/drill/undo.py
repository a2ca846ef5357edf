"""The undo journal: how each fault is undone, on disk before the fault is made; no death of a runner loses it."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RECORDS_MAX = 10_000


@dataclass(frozen=True)
class Undo:
    """Ask `door` of the mesh to heal the lease `key`. `what` is for people."""

    key: str
    door: str
    what: str


@dataclass
class UndoJournal:
    """One file, appended to and synced; a fault is open until its `done` stands in it. For the lock's holder alone."""

    path: Path
    _open: dict[str, Undo] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.path.exists():
            return
        for line in self.path.read_text().splitlines()[-RECORDS_MAX:]:
            try:
                record: dict[str, Any] = json.loads(line)
                if "done" in record:
                    self._open.pop(record["done"], None)
                else:
                    undo = Undo(**record)
                    self._open[undo.key] = undo
            except (ValueError, TypeError, KeyError):
                # The last line of a runner that was killed while it wrote: its fault was never made.
                continue

    def will(self, undo: Undo) -> None:
        """Write down how to undo what comes next. Durable when this returns."""
        self._append(asdict(undo))
        self._open[undo.key] = undo

    def done(self, key: str) -> None:
        self._append({"done": key})
        self._open.pop(key, None)
        if not self._open:
            self.path.unlink(missing_ok=True)

    @property
    def open(self) -> list[Undo]:
        """The newest first: what was broken last is healed first."""
        return list(self._open.values())[::-1]

    def _append(self, record: dict[str, Any]) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
