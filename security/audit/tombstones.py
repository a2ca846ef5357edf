"""What is left of records that retention has removed, and the proof that it was retention that removed them.

A removal has a record of its own, a leaf like any other, that says by which rule it removed how many records of which
leaves, and the root of a tree over their leaf hashes. The log's key signs that record, so that whoever owns the
database cannot call a hole of their own making a removal. Each leaf whose record went has a tombstone that names its
removal; the leaf's hash stays, and with it every proof.
"""

import base64
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from security.audit.findings import Report, Tampering
from security.audit.merkle import CompactRange
from security.audit.note import NoteRejected, Verifier
from security.audit.record import leaf_hash

# As records of removals name where from.
PLACE: Final = "audit.record"
_REASON: Final = re.compile(
    r"REMOVED (?P<count>[1-9]\d*) audit\.record"
    r" (?P<first>\d+)-(?P<end>\d+) (?P<data_class>[A-Z]+) (?P<days>[1-9]\d*) (?P<root>[0-9a-f]{64})"
)
_NONE: Final = 2**63


class NoRemoval(ValueError):
    """It does not say what was removed, or nobody who may has signed it."""


@dataclass(frozen=True, slots=True)
class Removal:
    """What the record of a removal says."""

    count: int
    # Of the leaves [first, end).
    first: int
    end: int
    # Records of calls that answer with values of this class are kept for so many days.
    data_class: str
    days: int
    # Of the tree over the leaf hashes of what was removed, in the order of their leaves.
    root: bytes

    @property
    def how(self) -> str:
        """As it stands behind count and place in the record's reason."""
        return f"{self.first}-{self.end} {self.data_class} {self.days} {self.root.hex()}"

    @classmethod
    def parse(cls, reason: str) -> "Removal":
        """Raises NoRemoval."""
        said = _REASON.fullmatch(reason)
        if said is None:
            raise NoRemoval("its record does not say what was removed")
        count, first, end, days = (int(said[name]) for name in ("count", "first", "end", "days"))
        return cls(count, first, end, said["data_class"], days, bytes.fromhex(said["root"]))


def statement(origin: str, record_hash: bytes) -> str:
    """What the log's key signs of the record of a removal. Nothing else that it signs begins so."""
    return f"{origin}/removal\n{base64.b64encode(record_hash).decode()}\n"


class Tombstone(msgspec.Struct, frozen=True, gc=False):
    leaf_index: int
    # The sequence number of the removal's record.
    removal: int


@dataclass(frozen=True, slots=True)
class KeptRemoval:
    """A removal as somebody kept it.

    before, behind: the compact ranges of what it removed of leaves that are not looked at; that behind by its hashes.
    """

    sequence: int
    note: str
    # The canonical form of its record.
    canonical: bytes
    before: CompactRange = field(default_factory=CompactRange)
    behind: Sequence[bytes] = ()

    def open(self, verifier: Verifier) -> Removal:
        """What it says, once the log's signature over it is found good. Raises NoRemoval."""
        try:
            signed = verifier.open(self.note)
        except NoteRejected as rejected:
            raise NoRemoval(f"it does not count: {rejected}") from None
        if signed != statement(verifier.name, leaf_hash(self.canonical)):
            raise NoRemoval("its record is gone, or is not the one that was signed")
        return Removal.parse(json.loads(self.canonical)["reason"])


class Tombstones:
    """Goes along with the leaves, and finds out in the end whether what is gone is what was said to be removed."""

    def __init__(self, removals: Iterable[KeptRemoval] = (), tombstones: Iterable[Tombstone] = ()) -> None:
        """tombstones: by leaf."""
        self._kept: Mapping[int, KeptRemoval] = {each.sequence: each for each in removals}
        self._taken = {sequence: _Taken(kept.before.copy()) for sequence, kept in self._kept.items()}
        self._missing: defaultdict[int, _Taken] = defaultdict(_Taken)
        self._rest: Iterator[Tombstone] = iter(tombstones)
        self._next = next(self._rest, None)
        # The next leaf that has one.
        self.next_leaf = self._next.leaf_index if self._next else _NONE

    def take(self, index: int, leaf_hash: bytes) -> bool:
        """Whether this leaf has one. Leaves come in order."""
        while self._next is not None and self.next_leaf <= index:
            removal, found = self._next.removal, self.next_leaf == index
            if found:
                (self._taken.get(removal) or self._missing[removal]).add(index, leaf_hash)
            self._next = next(self._rest, None)
            self.next_leaf = self._next.leaf_index if self._next else _NONE
            if found:
                return True
        return False

    def judge(self, verifier: Verifier, report: Report) -> None:
        """Name every removal that is not one, or did not remove what its record says."""
        for sequence, taken in [*self._taken.items(), *self._missing.items()]:
            try:
                kept = self._kept.get(sequence)
                if kept is None:
                    raise NoRemoval("there is no such removal")
                _compare(kept.open(verifier), taken, kept)
            except NoRemoval as reason:
                message = (
                    f"records of {taken.span} are gone, and removal {sequence} does not account for them: {reason}"
                )
                report.add(Tampering.REMOVED, message, leaf_index=taken.first, leaf_end=taken.end, sequence=sequence)
            else:
                report.removed += taken.count


@dataclass(slots=True)
class _Taken:
    """The leaves that name one removal."""

    tree: CompactRange = field(default_factory=CompactRange)
    count: int = 0
    first: int | None = None
    end: int | None = None

    def add(self, index: int, leaf_hash: bytes) -> None:
        self.tree.append(leaf_hash)
        self.count += 1
        self.end = index + 1
        if self.first is None:
            self.first = index

    @property
    def span(self) -> str:
        return "no leaf" if self.first is None else f"leaves {self.first} to {(self.end or 0) - 1}"


def _compare(removal: Removal, taken: _Taken, kept: KeptRemoval) -> None:
    whole = taken.tree
    try:
        whole.extend(CompactRange(whole.end, removal.count, kept.behind))
    except ValueError:
        raise NoRemoval(f"it removed {removal.count} records, and {taken.count} name it") from None
    if whole.root() != removal.root:
        raise NoRemoval("it removed other records than those that name it")
    if taken.first is not None and not removal.first <= taken.first < (taken.end or 0) <= removal.end:
        raise NoRemoval(f"it removed of leaves {removal.first} to {removal.end - 1} alone")
