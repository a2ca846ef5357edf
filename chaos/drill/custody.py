"""Where drills keep what must outlive them: the lock, the undo journal, and who heals what a killed one has left."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from chaos.drill.errors import DrillRunning
from chaos.drill.target import Target
from chaos.drill.undo import UndoJournal
from deploy.local.settings import Home


def directory(home: Home) -> Path:
    return home.root / "drill"


def journal(home: Home) -> UndoJournal:
    return UndoJournal(directory(home) / "undo.jsonl")


@contextmanager
def locked(home: Home) -> Iterator[IO[str]]:
    """Only one drill at a time on a mesh; the file holds the runner's pid.

    Raises:
        DrillRunning: another one holds it.
    """
    path = directory(home) / "lock"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            pid = lock.read().strip() or "unknown"
            remedy = "Wait, or stop it with `isthmus drill abort`"
            raise DrillRunning(f"A drill is running (pid {pid})", remedy) from error
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield lock
        lock.truncate(0)


def heal_leftovers(target: Target) -> list[str]:
    """Undo what a killed runner has left. For the lock's holder alone. Returns what it was."""
    book = journal(target.home)
    left = book.open
    for one in left:
        target.heal(one.door, one.key)
        book.done(one.key)
    return [one.what for one in left]
