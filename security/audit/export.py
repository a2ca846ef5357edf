"""Verify an export with nothing but the public key."""

import base64
import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

from security.audit import ocsf
from security.audit.checkpoint import Checkpoint
from security.audit.cosignature import WitnessVerifier, newest_witnessed
from security.audit.findings import KeptNote, Leaf, Report, Row, Tampering
from security.audit.merkle import CompactRange
from security.audit.note import NoteRejected, Verifier
from security.audit.tombstones import KeptRemoval, Tombstone, Tombstones
from security.audit.verify import verify

SOURCE: Final = "the export"


class ExportMalformed(Exception):
    """The file is no export of an audit log."""


def verify_export(
    lines: Iterable[str], kept: Sequence[KeptNote], verifier: Verifier, witness: WitnessVerifier | None = None
) -> Report:
    """Check every line against the checkpoints among them, the newest of which stands at the end.

    kept: checkpoints that lie elsewhere. witness: who must have cosigned one of them. Raises ExportMalformed.
    """
    export = _Export(lines)
    if export.proof is None:
        report = Report(rows=len(export.rows), leaves=len(export.leaves))
        report.add(Tampering.CUT, "the export does not end with its checkpoint: its newest lines were cut off")
        return report
    first, end, before, behind = export.proof
    try:
        start = CompactRange(0, first, before)
        tail = CompactRange(end, Checkpoint.parse(export.newest).size, behind)
    except (ValueError, NoteRejected) as error:
        raise ExportMalformed(f"the proof in its last line is none: {error}") from error
    notes = [KeptNote(note, SOURCE) for note in export.notes]
    leaves = sorted(export.leaves, key=lambda leaf: leaf.index)
    rows = sorted(export.rows, key=lambda row: row.sequence)
    tombstones = Tombstones(export.removals, sorted(export.tombstones, key=lambda each: each.leaf_index))
    report = verify(rows, leaves, [*notes, *kept], verifier, start, tail, tombstones)
    for kind, message, index in export.findings:
        report.add(kind, message, leaf_index=index)
    if witness is not None:
        report.witnessed = newest_witnessed([*notes, *kept], verifier, witness)
        if report.witnessed is None:
            report.add(Tampering.UNWITNESSED, f"no checkpoint in it is cosigned by {witness.name}")
    return report


class _Export:
    """The lines of the file, taken apart."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.rows: list[Row] = []
        self.leaves: list[Leaf] = []
        self.notes: list[str] = []
        self.tombstones: list[Tombstone] = []
        self.removals: list[KeptRemoval] = []
        self.findings: list[tuple[Tampering, str, int | None]] = []
        self.newest = ""
        # First leaf, end, the compact ranges before and behind.
        self.proof: tuple[int, int, list[bytes], list[bytes]] | None = None
        for number, line in enumerate(lines, 1):
            try:
                self._take(json.loads(line), number)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ExportMalformed(f"line {number} is no line of an export: {error}") from error

    def _take(self, event: dict[str, Any], number: int) -> None:
        unmapped = event["unmapped"]
        if event["class_uid"] == ocsf.BASE_EVENT and "checkpoint" in unmapped:
            self.newest = unmapped["checkpoint"]
            self.notes.append(self.newest)
            if "end_leaf" in unmapped:
                ends = int(unmapped["first_leaf"]), int(unmapped["end_leaf"])
                self.proof = (*ends, _hashes(unmapped["before"]), _hashes(unmapped["behind"]))
            return
        if event["class_uid"] == ocsf.BASE_EVENT and "note" in unmapped:
            before = CompactRange(0, int(unmapped["before_count"]), _hashes(unmapped["before"]))
            said = ocsf.record_of(unmapped["record"]).canonical()
            kept = (int(unmapped["sequence"]), unmapped["note"], said, before, _hashes(unmapped["behind"]))
            self.removals.append(KeptRemoval(*kept))
            return
        index, sequence = int(unmapped["leaf_index"]), int(unmapped["sequence"])
        if event["class_uid"] == ocsf.BASE_EVENT:
            self.tombstones.append(Tombstone(index, int(unmapped["removal"])))
            self.leaves.append(Leaf(index, sequence, bytes.fromhex(unmapped["leaf_hash"])))
            return
        record = ocsf.record_of(unmapped["record"])
        if self.leaves and index <= self.leaves[-1].index:
            message = f"line {number} is leaf {index} and stands behind leaf {self.leaves[-1].index}"
            self.findings.append((Tampering.REORDERED, message, index))
        elif bytes.fromhex(unmapped["leaf_hash"]) == record.leaf_hash() and event != ocsf.event(
            record, sequence, index
        ):
            message = f"line {number} says otherwise than the record in it, which is leaf {index}"
            self.findings.append((Tampering.ALTERED, message, index))
        self.rows.append(Row(sequence, record.canonical()))
        self.leaves.append(Leaf(index, sequence, bytes.fromhex(unmapped["leaf_hash"])))


def _hashes(texts: Sequence[str]) -> list[bytes]:
    return [base64.b64decode(each) for each in texts]
