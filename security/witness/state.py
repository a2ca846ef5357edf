"""What the witness remembers of the log: its key, and the newest checkpoint that it has cosigned."""

import json
from pathlib import Path

from mesh.errors import FailedPrecondition
from mesh.files import DIRECTORY_MODE, PRIVATE_MODE, read_file, write_file
from security.audit.checkpoint import Checkpoint
from security.audit.cosignature import WitnessVerifier
from security.audit.note import KeyMalformed, NoteRejected, Verifier


class WitnessStateDamaged(FailedPrecondition):
    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            "WITNESS_STATE_DAMAGED",
            f"{path} is not what this witness wrote: {why}",
            remedy="Restore the file. A witness that forgets can be told another story.",
        )


class WitnessedLog:
    """`path`: the newest cosigned note; beside it `log.json`, the key that was pinned with the first one."""

    def __init__(self, path: Path, log_key: Path) -> None:
        self._path = path
        self._pin = path.with_name("log.json")
        self._log_key = log_key
        self._verifier: Verifier | None = None
        self.newest: Checkpoint | None = None

    def load(self, witness: WitnessVerifier) -> None:
        """Read what was kept. Raises WitnessStateDamaged."""
        if not self._pin.exists():
            if self._path.exists():
                raise WitnessStateDamaged(self._pin, "it is gone")
            return
        try:
            self._verifier = Verifier.parse(json.loads(read_file(self._pin))["log"])
            if self._path.exists():
                note = read_file(self._path).decode()
                witness.open(note)
                self.newest = Checkpoint.open(note, self._verifier)
        except (OSError, ValueError, KeyError, TypeError, KeyMalformed, NoteRejected) as error:
            raise WitnessStateDamaged(self._path, str(error)) from error

    def verifier(self) -> Verifier | None:
        """The log's key; None while the log has none yet. Raises KeyMalformed, OSError."""
        if self._verifier is not None:
            return self._verifier
        try:
            return Verifier.parse(read_file(self._log_key).decode(errors="replace"))
        except FileNotFoundError:
            return None

    def keep(self, note: str, checkpoint: Checkpoint, verifier: Verifier) -> None:
        """Return when the note is safe; only then may its cosignature leave. Raises OSError."""
        if self._verifier is None:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=DIRECTORY_MODE)
            write_file(self._pin, json.dumps({"log": str(verifier)}).encode() + b"\n", PRIVATE_MODE)
            self._verifier = verifier
        write_file(self._path, note.encode(), PRIVATE_MODE)
        self.newest = checkpoint
