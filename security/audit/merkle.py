"""Merkle tree arithmetic after RFC 9162, section 2.1 (the same trees as RFC 6962). The standard library alone.

Hashes are SHA-256, 32 bytes; a tree over leaves d0, d1, ... is given by their leaf hashes SHA-256(0x00 || d).
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
_NODE: Final = b"\x01"


class ProofInvalid(Exception):
    """The proof does not show what it is said to show."""


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(_NODE + left + right).digest()


class CompactRange:
    """The leaves [begin, end) of a tree by the fewest whole subtrees, from left to right: at most 2 log2(end) hashes.

    Leaves are added at the end: n of them take O(n). With begin = 0 the range is a tree and has a root.
    """

    __slots__ = ("begin", "end", "hashes")

    def __init__(self, begin: int = 0, end: int | None = None, hashes: Iterable[bytes] = ()) -> None:
        self.begin = begin
        self.end = begin if end is None else end
        self.hashes = list(hashes)
        if len(self.hashes) != len(_levels(self.begin, self.end)):
            raise ValueError(f"{len(self.hashes)} hashes cannot stand for the leaves [{self.begin}, {self.end})")

    def copy(self) -> "CompactRange":
        return CompactRange(self.begin, self.end, self.hashes)

    def append(self, leaf_hash: bytes) -> None:
        self._push(0, leaf_hash)

    def extend(self, right: "CompactRange") -> None:
        """Add the leaves of a range that begins where this one ends."""
        if right.begin != self.end:
            raise ValueError(f"a range from {right.begin} cannot follow one to {self.end}")
        for level, subtree in zip(_levels(right.begin, right.end), right.hashes, strict=True):
            self._push(level, subtree)

    def root(self) -> bytes:
        if self.begin:
            raise ValueError("only a range from the first leaf on has a root")
        if not self.hashes:
            return EMPTY_ROOT
        root = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            root = node_hash(left, root)
        return root

    def spans(self) -> list[tuple[int, int]]:
        """The leaves [first, end) below each of the hashes."""
        spans, first = [], self.begin
        for level in _levels(self.begin, self.end):
            spans.append((first, first + (1 << level)))
            first += 1 << level
        return spans

    def _push(self, level: int, subtree: bytes) -> None:
        """Add the subtree of 2^level leaves that begins at `end`, joined with every left sibling that is here."""
        index, hashes = self.end >> level, self.hashes
        self.end += 1 << level
        # An odd index is a right child; its sibling is here unless it reaches beyond the beginning.
        while index & 1 and (index - 1) << level >= self.begin:
            subtree = node_hash(hashes.pop(), subtree)
            index >>= 1
            level += 1
        hashes.append(subtree)


def _levels(begin: int, end: int) -> list[int]:
    """The levels of the subtrees that [begin, end) falls into, from left to right."""
    if not 0 <= begin <= end:
        raise ValueError(f"there is no range [{begin}, {end})")
    levels = []
    while begin < end:
        fits = (end - begin).bit_length() - 1
        level = min(fits, (begin & -begin).bit_length() - 1) if begin else fits
        levels.append(level)
        begin += 1 << level
    return levels


def tree(leaf_hashes: Iterable[bytes], begin: int = 0) -> CompactRange:
    compact = CompactRange(begin)
    for leaf_hash in leaf_hashes:
        compact.append(leaf_hash)
    return compact


def root(leaf_hashes: Iterable[bytes]) -> bytes:
    """MTH of section 2.1.1."""
    return tree(leaf_hashes).root()


def inclusion_proof(leaf_hashes: Sequence[bytes], index: int) -> list[bytes]:
    """PATH of section 2.1.3.1: that leaf `index` is in the tree of all `leaf_hashes`. The lowest sibling first."""
    if not 0 <= index < len(leaf_hashes):
        raise ValueError(f"there is no leaf {index} in a tree of {len(leaf_hashes)}")
    proof, first, end = [], 0, len(leaf_hashes)
    while end - first > 1:
        middle = first + _left(end - first)
        if index < middle:
            proof.append(root(leaf_hashes[middle:end]))
            end = middle
        else:
            proof.append(root(leaf_hashes[first:middle]))
            first = middle
    return proof[::-1]


def consistency_proof(leaf_hashes: Sequence[bytes], size: int) -> list[bytes]:
    """PROOF of section 2.1.4.1: that the tree of the first `size` leaves grew into the tree of all."""
    if not 0 < size <= len(leaf_hashes):
        raise ValueError(f"a tree of {len(leaf_hashes)} has not grown from {size}")
    proof, first, end = [], 0, len(leaf_hashes)
    while size != end:
        middle = first + _left(end - first)
        if size <= middle:
            proof.append(root(leaf_hashes[middle:end]))
            end = middle
        else:
            proof.append(root(leaf_hashes[first:middle]))
            first = middle
    if first:
        # The old tree's own last part; when it is a whole left part, the verifier knows it as the old root.
        proof.append(root(leaf_hashes[first:end]))
    return proof[::-1]


def growth_proof(old: CompactRange, added: CompactRange) -> list[bytes]:
    """The same as consistency_proof, from the compact ranges of the old tree and of the leaves added since."""
    if old.begin or not old.end or added.begin != old.end:
        raise ValueError(f"[{added.begin}, {added.end}) does not follow a tree of {old.end}")
    if added.end == old.end:
        return []
    spans = [*zip(old.spans(), old.hashes, strict=True), *zip(added.spans(), added.hashes, strict=True)]

    def part(begin: int, stop: int) -> bytes:
        *lefts, joined = [subtree for (first, end), subtree in spans if begin <= first and end <= stop]
        for left in reversed(lefts):
            joined = node_hash(left, joined)
        return joined

    proof, first, end, size = [], 0, added.end, old.end
    while size != end:
        middle = first + _left(end - first)
        if size <= middle:
            proof.append(part(middle, end))
            end = middle
        else:
            proof.append(part(first, middle))
            first = middle
    if first:
        proof.append(part(first, end))
    return proof[::-1]


def verify_inclusion(index: int, size: int, leaf_hash: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """Section 2.1.3.2. Raises ProofInvalid."""
    if not 0 <= index < size:
        raise ProofInvalid(f"there is no leaf {index} in a tree of {size}")
    _require_hashes(leaf_hash, root, *proof)
    node, last, computed = index, size - 1, leaf_hash
    for sibling in proof:
        if not last:
            raise ProofInvalid("the proof is too long")
        if node & 1 or node == last:
            computed = node_hash(sibling, computed)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            computed = node_hash(computed, sibling)
        node, last = node >> 1, last >> 1
    if last:
        raise ProofInvalid("the proof is too short")
    if computed != root:
        raise ProofInvalid("the proof leads to another root")


def verify_consistency(size1: int, size2: int, root1: bytes, root2: bytes, proof: Sequence[bytes]) -> None:
    """Section 2.1.4.2: that the tree of `size1` leaves with `root1` grew into that of `size2`. Raises ProofInvalid."""
    if not 0 < size1 <= size2:
        raise ProofInvalid(f"a tree of {size2} has not grown from {size1}")
    if size1 == size2:
        if proof or root1 != root2:
            raise ProofInvalid("trees of one size have one root, and need no proof")
        return
    _require_hashes(root1, root2, *proof)
    path = list(proof)
    if not size1 & (size1 - 1):
        path.insert(0, root1)
    if not path:
        raise ProofInvalid("the proof is too short")
    node, last = size1 - 1, size2 - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old = new = path[0]
    for sibling in path[1:]:
        if not last:
            raise ProofInvalid("the proof is too long")
        if node & 1 or node == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        node, last = node >> 1, last >> 1
    if last:
        raise ProofInvalid("the proof is too short")
    if old != root1 or new != root2:
        raise ProofInvalid("the proof leads to other roots")


def _require_hashes(*hashes: bytes) -> None:
    if any(len(each) != HASH_BYTES for each in hashes):
        raise ProofInvalid(f"a hash has {HASH_BYTES} bytes")


def _left(leaves: int) -> int:
    """The largest power of two below `leaves`, which is at least 2."""
    return 1 << ((leaves - 1).bit_length() - 1)
