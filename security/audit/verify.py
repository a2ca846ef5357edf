"""Find out whether the log is what was signed, and name what is not.

Three things must say the same: the rows, the leaves (which row stands where in the tree, and its hash), and the roots
that were signed over them. Rows are hashed anew; no stored hash is believed. Where rows and leaves differ, the signed
roots tell which of the two was changed. A row may be gone when a removal accounts for it (tombstones.py).
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from security.audit.checkpoint import Checkpoint
from security.audit.findings import FINDINGS_MAX, KeptNote, Leaf, Report, Row, Tampering
from security.audit.merkle import HASH_BYTES, CompactRange
from security.audit.note import NoteRejected, Verifier, WrongKey
from security.audit.record import leaf_hash
from security.audit.tombstones import Tombstones

# A root that fits vouches for all before it, so of a long history the newest signatures are enough.
SIGNATURES_CHECKED_MAX: Final = 1000


def verify(
    rows: Iterable[Row],
    leaves: Iterable[Leaf],
    notes: Sequence[KeptNote],
    verifier: Verifier,
    before: CompactRange | None = None,
    behind: CompactRange | None = None,
    tombstones: Tombstones | None = None,
) -> Report:
    """Compare rows (by sequence), leaves (by index) and checkpoints of one moment.

    before, behind: the compact ranges of the leaves that come before those given and after them. tombstones: of those.
    """
    report = Report()
    marks = _marks(notes, verifier, report)
    removals = tombstones or Tombstones()
    walk = _Walk(report, marks, before or CompactRange(), removals)
    walk.run(iter(rows), iter(leaves))
    removals.judge(verifier, report)
    if behind is not None:
        walk.close(behind)
    _judge(walk, marks, report)
    return report


@dataclass(slots=True)
class _Mark:
    """A checkpoint, and what its root was compared with."""

    checkpoint: Checkpoint
    kept: KeptNote
    verifier: Verifier
    # Whether the root is that of the leaves, of the rows; None: was not reached.
    fits_leaves: bool | None = None
    fits_rows: bool | None = None
    differing: list[tuple[int, int]] = field(default_factory=list)
    _rejected: NoteRejected | None = None
    _checked: bool = False

    @property
    def size(self) -> int:
        return self.checkpoint.size

    @property
    def name(self) -> str:
        return f"the checkpoint of size {self.size} in {self.kept.source}"

    @property
    def rejected(self) -> NoteRejected | None:
        """Why its signature does not count."""
        if not self._checked:
            self._checked = True
            try:
                Checkpoint.open(self.kept.note, self.verifier)
            except NoteRejected as rejected:
                self._rejected = rejected
        return self._rejected

    def subtrees(self) -> CompactRange | None:
        """The compact range that was kept with it, when the signed root vouches for it."""
        hashes = [self.kept.subtrees[at : at + HASH_BYTES] for at in range(0, len(self.kept.subtrees), HASH_BYTES)]
        try:
            compact = CompactRange(0, self.size, hashes)
        except ValueError:
            return None
        return compact if not self.rejected and compact.root() == self.checkpoint.root else None


def _marks(notes: Sequence[KeptNote], verifier: Verifier, report: Report) -> list[_Mark]:
    """The checkpoints by size; one that two have kept alike counts once."""
    unlike: dict[Checkpoint, _Mark] = {}
    for kept in notes:
        try:
            checkpoint = Checkpoint.parse(kept.note)
        except NoteRejected as rejected:
            report.add(Tampering.ALTERED, f"a checkpoint in {kept.source} was changed: {rejected}")
            continue
        report.checkpoints += 1
        mark = _Mark(checkpoint, kept, verifier)
        if checkpoint not in unlike or (unlike[checkpoint].kept.note != kept.note and unlike[checkpoint].rejected):
            unlike[checkpoint] = mark
    return sorted(unlike.values(), key=lambda mark: mark.size)


class _Walk:
    """One pass over rows and leaves, growing the tree of the leaves and, from where they differ, that of the rows."""

    def __init__(self, report: Report, marks: Sequence[_Mark], before: CompactRange, tombstones: Tombstones) -> None:
        self.report = report
        self._tombstones = tombstones
        self.tree: CompactRange | None = before
        self.rows_tree: CompactRange | None = None
        self.next_index = before.end
        # Where a row's own hash is not its leaf's: leaf, row, the row's hash.
        self.unlike: list[tuple[Leaf, Row, bytes]] = []
        self.removed: list[Leaf] = []
        self._unleafed: dict[int, Row] = {}
        self._last_sequence = 0
        self._marks = [mark for mark in marks if mark.size > before.end]
        self._at = 0

    def run(self, rows: Iterator[Row], leaves: Iterator[Leaf]) -> None:
        report, tombstones = self.report, self._tombstones
        row = next(rows, None)
        for leaf in leaves:
            report.leaves += 1
            skipped: list[Row] = []
            while row is not None and row.sequence < leaf.sequence:
                report.rows += 1
                skipped.append(row)
                row = next(rows, None)
            if leaf.index != self.next_index:
                skipped = self._gap(leaf, skipped)
            gone = leaf.index >= tombstones.next_leaf and tombstones.take(leaf.index, leaf.leaf_hash)
            if skipped:
                self._unleafed.update((each.sequence, each) for each in skipped[:FINDINGS_MAX])
            if row is not None and row.sequence == leaf.sequence:
                report.rows += 1
                self._pair(leaf, row)
                row = next(rows, None)
            elif leaf.sequence in self._unleafed:
                late = self._unleafed.pop(leaf.sequence)
                self._pair(leaf, late, " stands before rows that it came after")
            else:
                if not gone:
                    self.removed.append(leaf)
                self._grow(leaf.leaf_hash, leaf.leaf_hash)
            self._last_sequence = max(self._last_sequence, leaf.sequence)
        while row is not None:
            report.rows += 1
            report.pending += 1
            self._own_hash(row, None)
            row = next(rows, None)
        for inserted in self._unleafed.values():
            message = f"row {inserted.sequence} is in no leaf, and stands among rows that are"
            report.add(Tampering.INSERTED, message, sequence=inserted.sequence, record_id=_id(inserted))

    def close(self, behind: CompactRange) -> None:
        """Go on to the end of the tree over leaves that were not given."""
        if self.next_index == behind.begin and behind.hashes:
            for tree in (self.tree, self.rows_tree):
                if tree is not None:
                    tree.extend(behind)
            self._reach(behind.end)

    def _gap(self, leaf: Leaf, skipped: list[Row]) -> list[Row]:
        """Leaves are missing before this one, or it is out of place. Returns the rows that belong to none of them."""
        missing = leaf.index - self.next_index
        if missing < 0:
            message = f"leaf {leaf.index} is there more than once"
            self.report.add(Tampering.INSERTED, message, leaf_index=leaf.index, sequence=leaf.sequence)
            self._lose(leaf.index)
        elif missing == len(skipped):
            for row in skipped:
                message = f"leaf {self.next_index} is gone; its row {row.sequence} is there"
                about = {"leaf_index": self.next_index, "sequence": row.sequence, "record_id": _id(row)}
                self.report.add(Tampering.REMOVED, message, **about)
                own = leaf_hash(row.canonical)
                self._grow(own, own)
            return []
        else:
            message = (
                f"leaves {self.next_index} to {leaf.index - 1} are gone, and with them the rows between"
                f" {self._last_sequence} and {leaf.sequence}"
            )
            self.report.add(Tampering.REMOVED, message, leaf_index=self.next_index, leaf_end=leaf.index)
            self._lose(leaf.index)
        return skipped

    def _lose(self, index: int) -> None:
        """Go on at leaf `index` without a tree, until a checkpoint brings one."""
        self.tree = self.rows_tree = None
        self.next_index = index

    def _pair(self, leaf: Leaf, row: Row, out_of_place: str = "") -> None:
        own = self._own_hash(row, leaf)
        if own != leaf.leaf_hash:
            if len(self.unlike) < FINDINGS_MAX:
                self.unlike.append((leaf, row, own))
            else:
                self.report.unnamed += 1
        elif out_of_place:
            self.report.add(
                Tampering.REORDERED,
                f"row {row.sequence}{out_of_place}: it is leaf {leaf.index}",
                **_about(leaf, row),
            )
        self._grow(leaf.leaf_hash, own)

    def _own_hash(self, row: Row, leaf: Leaf | None) -> bytes:
        """The hash of what the row holds. A column that says otherwise, where the leaf does not, was changed."""
        own = leaf_hash(row.canonical)
        if row.leaf_hash and row.leaf_hash != own and (leaf is None or leaf.leaf_hash == own):
            message = f"row {row.sequence}: its column leaf_hash is not the hash of what it holds"
            index = leaf.index if leaf else None
            self.report.add(Tampering.ALTERED, message, leaf_index=index, sequence=row.sequence, record_id=_id(row))
        return own

    def _grow(self, leaf_hash: bytes, own: bytes) -> None:
        if self.tree is not None:
            if own != leaf_hash and self.rows_tree is None:
                self.rows_tree = self.tree.copy()
            self.tree.append(leaf_hash)
            if self.rows_tree is not None:
                self.rows_tree.append(own)
        self._reach(self.next_index + 1)

    def _reach(self, index: int) -> None:
        """All leaves below `index` are in the tree: compare it with what was signed at that size."""
        self.next_index = index
        while self._at < len(self._marks) and self._marks[self._at].size <= self.next_index:
            mark = self._marks[self._at]
            self._at += 1
            if mark.size == self.next_index:
                self._compare(mark)

    def _compare(self, mark: _Mark) -> None:
        if self.tree is None:
            # What is missing has left the tree unknown; from here on it is known again.
            self.tree = mark.subtrees()
            return
        mark.fits_leaves = self.tree.root() == mark.checkpoint.root
        mark.fits_rows = (self.rows_tree or self.tree).root() == mark.checkpoint.root
        signed = None if mark.fits_leaves else mark.subtrees()
        if signed is not None:
            pairs = zip(self.tree.hashes, signed.hashes, signed.spans(), strict=True)
            mark.differing = [span for ours, theirs, span in pairs if ours != theirs]


def _judge(walk: _Walk, marks: list[_Mark], report: Report) -> None:
    doubtful = [mark for mark in marks if mark.fits_leaves is False or mark.size > walk.next_index]
    wrong = []
    for mark in {id(mark): mark for mark in [*marks[-SIGNATURES_CHECKED_MAX:], *doubtful]}.values():
        if isinstance(mark.rejected, WrongKey):
            wrong.append(mark)
        elif mark.rejected is not None:
            report.add(Tampering.ALTERED, f"{mark.name} does not count: {mark.rejected}")
    if wrong:
        message = f"{len(wrong)} checkpoints do not count, the last of them {wrong[-1].name}: {wrong[-1].rejected}"
        report.add(Tampering.WRONG_KEY, message)
    # Of those that were not looked at, none is newer or at odds with the tree.
    unchecked = set(map(id, marks[:-SIGNATURES_CHECKED_MAX])) - set(map(id, doubtful))
    good = [mark for mark in marks if id(mark) in unchecked or mark.rejected is None]
    report.newest = good[-1].checkpoint if good else None
    signed = report.newest.size if report.newest else 0

    rows_are_true = any(mark.fits_leaves is False for mark in good) and all(
        mark.fits_rows is not False for mark in good
    )
    _name_unlike(walk, rows_are_true, report)
    _name_removed(walk, report)
    _name_unfit(walk, good, rows_are_true, report)
    if signed > walk.next_index:
        rows = signed - walk.next_index
        message = f"the newest {rows} leaves and their rows were cut off: {good[-1].name} has them"
        report.add(Tampering.CUT, message, leaf_index=walk.next_index, leaf_end=signed)
    elif signed < walk.next_index:
        message = f"no good checkpoint covers leaves {signed} to {walk.next_index - 1}"
        report.add(Tampering.UNSIGNED, message, leaf_index=signed, leaf_end=walk.next_index)


def _name_unlike(walk: _Walk, rows_are_true: bool, report: Report) -> None:
    places = {leaf.leaf_hash: leaf for leaf, _, _ in walk.unlike}
    for leaf, row, own in walk.unlike:
        kind = Tampering.ALTERED
        if rows_are_true:
            message = f"leaf {leaf.index} was changed; its row {row.sequence} is as it was signed"
        elif own in places:
            kind = Tampering.REORDERED
            message = f"row {row.sequence} stands in the place of leaf {leaf.index}: it is leaf {places[own].index}"
        else:
            message = f"row {row.sequence} no longer holds what was recorded as leaf {leaf.index}"
        report.add(kind, message, **_about(leaf, row))


def _name_removed(walk: _Walk, report: Report) -> None:
    tail = walk.next_index
    for leaf in reversed(walk.removed):
        tail -= leaf.index == tail - 1
    for leaf in walk.removed:
        kind = Tampering.CUT if leaf.index >= tail else Tampering.REMOVED
        message = f"row {leaf.sequence} is gone; its leaf {leaf.index} is there"
        report.add(kind, message, leaf_index=leaf.index, sequence=leaf.sequence)


def _name_unfit(walk: _Walk, good: list[_Mark], rows_are_true: bool, report: Report) -> None:
    """Name what does not fit the signed roots, where neither rows nor leaves do."""
    sizes: dict[int, _Mark] = {}
    forked = False
    for mark in good:
        other = sizes.setdefault(mark.size, mark)
        if other.checkpoint != mark.checkpoint:
            forked = True
            message = f"two trees of size {mark.size} were signed: {mark.name} and {other.name} differ"
            report.add(Tampering.FORKED, message, leaf_end=mark.size)
    unfit = [mark for mark in good if mark.fits_leaves is False]
    if not unfit or rows_are_true:
        return
    first = unfit[0]
    begin = max((mark.size for mark in good if mark.fits_leaves and mark.size < first.size), default=0)
    later = next((mark for mark in reversed(good) if mark.fits_leaves and mark.size > first.size), None)
    if later is not None:
        # A tree has one root at each size: who fits the larger tree cannot also stand for this smaller one.
        message = f"{first.name} and {later.name} were both signed, and the one did not grow into the other"
        report.add(Tampering.FORKED, message, leaf_index=begin, leaf_end=first.size)
    elif not forked:
        spans = [(max(begin, low), min(first.size, high)) for low, high in first.differing if high > begin]
        low, high = (spans[0][0], spans[-1][1]) if spans else (begin, first.size)
        which = f"leaf {low} was" if high == low + 1 else f"one or more of leaves {low} to {high - 1} were"
        message = f"{which} changed with their rows: {first.name} has another root; nothing later can be confirmed"
        report.add(Tampering.ALTERED, message, leaf_index=low, leaf_end=high)


def _id(row: Row) -> str | None:
    """As the row has it: which may not be what was recorded."""
    found = json.loads(row.canonical).get("record_id")
    return found if isinstance(found, str) else None


def _about(leaf: Leaf, row: Row) -> dict[str, int | str | None]:
    return {"leaf_index": leaf.index, "sequence": row.sequence, "record_id": _id(row)}
