"""Signed checkpoints of the log's tree after C2SP tlog-checkpoint: origin, size and root, as a signed note."""

import base64
import binascii
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from security.audit.merkle import HASH_BYTES
from security.audit.note import NoteRejected, Verifier

SIGNING_KEY: Final = Path("data/keys/audit/checkpoint.key")
VERIFIER_KEY: Final = SIGNING_KEY.with_suffix(".pub")
CHECKPOINT_FILE: Final = Path("run/audit/checkpoints.txt")
# One note in a file of many; whatever a torn write left between them is passed over.
_NOTE: Final = re.compile(
    r"(?m)^\S+\n(?:0|[1-9][0-9]*)\n[A-Za-z0-9+/]{43}=\n\n— \S+ [A-Za-z0-9+/]{91}=\n(?:— \S+ \S+\n)*"
)


def origin(trust_domain: str) -> str:
    """The log's name: isthmus.internal/audit."""
    return f"{trust_domain}/audit"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The log's tree as it was at one size."""

    origin: str
    size: int
    root: bytes

    @classmethod
    def parse(cls, note: str) -> "Checkpoint":
        """From a note whose signature is somebody else's matter. Raises NoteRejected."""
        try:
            origin, size, root, *_ = note.split("\n")
            checkpoint = cls(origin, int(size), base64.b64decode(root, validate=True))
        except (ValueError, binascii.Error):
            raise NoteRejected("it is no checkpoint") from None
        if not note.startswith(checkpoint.text) or checkpoint.size < 0 or len(checkpoint.root) != HASH_BYTES:
            raise NoteRejected("it is no checkpoint")
        return checkpoint

    @classmethod
    def open(cls, note: str, verifier: Verifier) -> "Checkpoint":
        """From a note that `verifier` signed. Raises NoteRejected."""
        checkpoint = cls.parse(verifier.open(note))
        if checkpoint.origin != verifier.name:
            raise NoteRejected(f"it is of the log {checkpoint.origin}")
        return checkpoint

    @property
    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


class CheckpointSink(Protocol):
    """Somebody who keeps checkpoints where the database's owner cannot take them back: a file, a witness."""

    def newest(self) -> str | None:
        """The newest note that was kept; None when there is none. Raises OSError."""

    def append(self, note: str) -> None:
        """Return when the note is safe. Raises OSError."""


class CheckpointFile:
    """Checkpoints one below another in a file that only grows."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def newest(self) -> str | None:
        notes = self.notes()
        return notes[-1] if notes else None

    def notes(self) -> list[str]:
        """Every whole note, in order. Raises OSError."""
        try:
            return _NOTE.findall(self._path.read_text(errors="replace"))
        except FileNotFoundError:
            return []

    def append(self, note: str) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # The blank lines part it from a note that was torn.
        with self._path.open("ab") as file:
            file.write(f"\n{note}\n".encode())
            file.flush()
            os.fsync(file.fileno())
