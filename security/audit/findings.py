"""What a verification of the log looks at, and what it finds."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import msgspec

from security.audit.checkpoint import Checkpoint

FINDINGS_MAX: Final = 1000


class Tampering(StrEnum):
    ALTERED = "altered"
    INSERTED = "inserted"
    REORDERED = "reordered"
    REMOVED = "removed"
    CUT = "cut"
    FORKED = "forked"
    WRONG_KEY = "wrong-key"
    UNSIGNED = "unsigned"
    UNWITNESSED = "unwitnessed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it was signed. None: not about a leaf, or not known which row it was."""

    kind: Tampering
    message: str
    leaf_index: int | None = None
    # Beyond the last leaf, where it is about several.
    leaf_end: int | None = None
    sequence: int | None = None
    record_id: str | None = None


# Structs, because a log has millions of them and these are made four times as fast as dataclasses.
class Row(msgspec.Struct, frozen=True, gc=False):
    sequence: int
    # The canonical form of what it holds; of what no record can hold, something else.
    canonical: bytes
    # What the row's own column says; b"" where there is none.
    leaf_hash: bytes = b""


class Leaf(msgspec.Struct, frozen=True, gc=False):
    index: int
    sequence: int
    leaf_hash: bytes


@dataclass(frozen=True, slots=True)
class KeptNote:
    """A checkpoint as somebody kept it."""

    note: str
    source: str
    # The compact range of its tree, joined; b"" where it was not kept.
    subtrees: bytes = b""


@dataclass(slots=True)
class Report:
    rows: int = 0
    leaves: int = 0
    checkpoints: int = 0
    # Rows that are not yet in the tree.
    pending: int = 0
    # Leaves whose records retention has removed, as it said.
    removed: int = 0
    # The newest checkpoint whose signature is good.
    newest: Checkpoint | None = None
    # The newest checkpoint that the witness has cosigned; None also when no witness was asked for.
    witnessed: Checkpoint | None = None
    findings: list[Finding] = field(default_factory=list)
    # Findings beyond FINDINGS_MAX.
    unnamed: int = 0

    @property
    def ok(self) -> bool:
        return not self.findings

    def add(self, kind: Tampering, message: str, **about: int | str | None) -> None:
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(kind, message, **about))  # type: ignore[arg-type]
        else:
            self.unnamed += 1
