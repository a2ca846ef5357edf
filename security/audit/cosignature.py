"""Cosignatures after C2SP tlog-cosignature 1.0 (Ed25519): a witness's word that it saw a checkpoint, and when."""

import base64
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from security.audit.checkpoint import Checkpoint
from security.audit.findings import KeptNote
from security.audit.note import KeyHolder, NoteRejected, Verifier

WITNESS_KEY: Final = Path("data/keys/witness/witness.key")
WITNESS_VERIFIER_KEY: Final = WITNESS_KEY.with_suffix(".pub")
# The newest checkpoint that the witness has cosigned, with its cosignature.
WITNESS_FILE: Final = Path("data/witness/newest.txt")
_TIME: Final = struct.Struct(">Q")
# Of a long history the newest are enough: whoever cosigned one has seen that it grew out of those before.
_CHECKED_MAX: Final = 1000


@dataclass(frozen=True)
class WitnessVerifier(Verifier):
    """A witness's public key."""

    TYPE: ClassVar[bytes] = b"\x04"

    def open(self, note: str) -> str:
        """The text of `note`, once the witness's cosignature is found good. Raises NoteRejected."""
        text, signature = self._find(note)
        if len(signature) < _TIME.size:
            raise NoteRejected("the cosignature says no time")
        (time_s,) = _TIME.unpack_from(signature)
        self._check(signature[_TIME.size :], _message(text, time_s))
        return text


class Cosigner(KeyHolder[WitnessVerifier]):
    """A witness's private key."""

    VERIFIER = WitnessVerifier

    def cosign(self, text: str, time_s: int) -> str:
        """The line to put below a checkpoint with this text."""
        signature = self.verifier.id + _TIME.pack(time_s) + self._key.sign(_message(text, time_s))
        return f"— {self.verifier.name} {base64.b64encode(signature).decode()}\n"


def newest_witnessed(kept: Iterable[KeptNote], log: Verifier, witness: WitnessVerifier) -> Checkpoint | None:
    """The largest checkpoint that both the log and the witness stand for."""
    named = [each for each in kept if f"\n— {witness.name} " in each.note]
    sized: list[tuple[int, str]] = []
    for each in named:
        try:
            sized.append((Checkpoint.parse(each.note).size, each.note))
        except NoteRejected:
            continue
    for _, note in sorted(sized, reverse=True)[:_CHECKED_MAX]:
        try:
            witness.open(note)
            return Checkpoint.open(note, log)
        except NoteRejected:
            continue
    return None


def _message(text: str, time_s: int) -> bytes:
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()
