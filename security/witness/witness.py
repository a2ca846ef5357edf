"""The rules of a witness (C2SP tlog-witness, add-checkpoint): what it cosigns, and why it does not."""

import base64
import binascii
import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from mesh.clock import Clock
from mesh.logs import logger
from security.audit.checkpoint import Checkpoint
from security.audit.cosignature import Cosigner
from security.audit.merkle import HASH_BYTES, ProofInvalid, verify_consistency
from security.audit.note import NoteRejected
from security.witness.state import WitnessedLog

PROOF_HASHES_MAX: Final = 63
_OLD: Final = re.compile(r"old (0|[1-9][0-9]{0,18})")


@dataclass(frozen=True, slots=True)
class Reply:
    status: HTTPStatus
    body: str
    content_type: str = "text/plain"


class Witness:
    """Not thread-safe: one event loop, and `add_checkpoint` never awaits."""

    def __init__(self, log: WitnessedLog, cosigner: Cosigner, clock: Clock) -> None:
        self._log = log
        self._cosigner = cosigner
        self._clock = clock
        self._journal = logger("witness")

    def add_checkpoint(self, body: str) -> Reply:
        """The reply to a request body: `old SIZE`, the consistency proof, a blank line, the checkpoint."""
        head, blank, note = body.partition("\n\n")
        first, *lines = head.split("\n")
        old = _OLD.fullmatch(first)
        if not blank or old is None or len(lines) > PROOF_HASHES_MAX:
            return Reply(HTTPStatus.BAD_REQUEST, "the body is no add-checkpoint request\n")
        try:
            proof = [_hash(line) for line in lines]
            checkpoint = Checkpoint.parse(note)
        except (binascii.Error, ValueError, NoteRejected) as error:
            return Reply(HTTPStatus.BAD_REQUEST, f"{error}\n")
        verifier = self._log.verifier()
        if verifier is None or checkpoint.origin != verifier.name:
            return Reply(HTTPStatus.NOT_FOUND, "this log is not known here\n")
        try:
            text = verifier.open(note)
        except NoteRejected as rejected:
            self._journal.error("checkpoint refused", reason=str(rejected), size=checkpoint.size)
            return Reply(HTTPStatus.FORBIDDEN, f"{rejected}\n")
        refusal = self._grown(int(old[1]), checkpoint, proof)
        if refusal is not None:
            return refusal
        line = self._cosigner.cosign(text, self._clock.now_us() // 1_000_000)
        self._log.keep(note + line, checkpoint, verifier)
        return Reply(HTTPStatus.OK, line)

    def _grown(self, old: int, checkpoint: Checkpoint, proof: list[bytes]) -> Reply | None:
        """None when the checkpoint grew out of the newest one that was cosigned."""
        known = self._log.newest
        size = known.size if known else 0
        if old > checkpoint.size:
            return Reply(HTTPStatus.BAD_REQUEST, "a log does not shrink\n")
        if old != size:
            return Reply(HTTPStatus.CONFLICT, f"{size}\n", "text/x.tlog.size")
        if known is None:
            return Reply(HTTPStatus.UNPROCESSABLE_ENTITY, "the first needs no proof\n") if proof else None
        if checkpoint.size == size and checkpoint.root != known.root:
            self._journal.error("forked: two trees of one size", size=size)
            return Reply(HTTPStatus.CONFLICT, f"{size}\n", "text/x.tlog.size")
        try:
            verify_consistency(size, checkpoint.size, known.root, checkpoint.root, proof)
        except ProofInvalid as invalid:
            self._journal.error("forked: the log did not grow out of what was cosigned", size=checkpoint.size)
            return Reply(HTTPStatus.UNPROCESSABLE_ENTITY, f"{invalid}\n")
        return None


def _hash(line: str) -> bytes:
    decoded = base64.b64decode(line, validate=True)
    if len(decoded) != HASH_BYTES:
        raise ValueError("a proof has hashes of 32 bytes")
    return decoded
