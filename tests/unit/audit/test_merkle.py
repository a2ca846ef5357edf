"""The tree is that of RFC 9162: outside vectors agree, and each way to the root leads to the same one."""

import base64
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from security.audit.merkle import (
    EMPTY_ROOT,
    CompactRange,
    ProofInvalid,
    consistency_proof,
    growth_proof,
    inclusion_proof,
    node_hash,
    root,
    tree,
    verify_consistency,
    verify_inclusion,
)

LEAVES = [hashlib.sha256(bytes([0, number])).digest() for number in range(70)]
SIZES = st.integers(0, len(LEAVES))


def vectors(name: str) -> dict[str, dict[str, Any]]:
    folder = os.environ.get("ISTHMUS_VECTORS")
    if not folder:
        pytest.skip("NOT TESTED: ISTHMUS_VECTORS names no folder of outside test vectors")
    loaded: dict[str, dict[str, Any]] = json.loads((Path(folder) / "merkle" / name).read_text())
    return loaded


def raw(text: str | None) -> bytes:
    return base64.b64decode(text or "")


def test_inclusion_agrees_with_every_outside_vector() -> None:
    cases = vectors("inclusion.json")
    for case in cases.values():
        arguments = (
            case["leafIdx"],
            case["treeSize"],
            raw(case["leafHash"]),
            [raw(one) for one in case["proof"] or ()],
            raw(case["root"]),
        )
        if case["wantErr"]:
            with pytest.raises(ProofInvalid):
                verify_inclusion(*arguments)
        else:
            verify_inclusion(*arguments)
    assert len(cases) >= 90


def test_consistency_agrees_with_every_outside_vector() -> None:
    cases = vectors("consistency.json")
    for case in cases.values():
        arguments = (
            case["size1"],
            case["size2"],
            raw(case["root1"]),
            raw(case["root2"]),
            [raw(one) for one in case["proof"] or ()],
        )
        if case["wantErr"]:
            with pytest.raises(ProofInvalid):
                verify_consistency(*arguments)
        else:
            verify_consistency(*arguments)
    assert len(cases) >= 90


def test_the_root_is_that_of_the_definition() -> None:
    def defined(leaves: list[bytes]) -> bytes:
        if len(leaves) < 2:
            return leaves[0] if leaves else EMPTY_ROOT
        left = 1
        while left * 2 < len(leaves):
            left *= 2
        return node_hash(defined(leaves[:left]), defined(leaves[left:]))

    for size in range(len(LEAVES) + 1):
        assert root(LEAVES[:size]) == defined(LEAVES[:size])


@given(SIZES, SIZES, SIZES)
def test_ranges_side_by_side_are_the_whole(first: int, second: int, third: int) -> None:
    begin, middle, end = sorted((first, second, third))
    whole = tree(LEAVES[begin:middle], begin)
    whole.extend(tree(LEAVES[middle:end], middle))
    assert whole.hashes == tree(LEAVES[begin:end], begin).hashes
    assert (whole.begin, whole.end) == (begin, end)
    spans = whole.spans()
    assert [leaf for first, end in spans for leaf in range(first, end)] == list(range(begin, end))


@given(SIZES.filter(bool), st.data())
def test_each_leaf_is_proven_and_no_other(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(LEAVES[:size], index)
    verify_inclusion(index, size, LEAVES[index], proof, root(LEAVES[:size]))
    with pytest.raises(ProofInvalid):
        verify_inclusion(index, size, b"x" * 32, proof, root(LEAVES[:size]))


@given(SIZES.filter(bool), SIZES.filter(bool))
def test_growth_is_proven_and_a_fork_is_not(first: int, second: int) -> None:
    size1, size2 = sorted((first, second))
    proof = consistency_proof(LEAVES[:size2], size1)
    verify_consistency(size1, size2, root(LEAVES[:size1]), root(LEAVES[:size2]), proof)
    forked = [b"x" * 32, *LEAVES[1:size1]]
    with pytest.raises(ProofInvalid):
        verify_consistency(size1, size2, root(forked), root(LEAVES[:size2]), proof)


def test_a_range_is_not_made_from_too_few_hashes() -> None:
    with pytest.raises(ValueError, match="cannot stand for"):
        CompactRange(0, 3, LEAVES[:1])
    with pytest.raises(ValueError, match="cannot follow"):
        CompactRange().extend(CompactRange(1))
    with pytest.raises(ValueError, match="has a root"):
        CompactRange(1).root()


def test_a_growth_proof_is_the_consistency_proof() -> None:
    leaves = LEAVES[:40]
    for size in range(1, 41):
        for old in range(1, size + 1):
            proof = growth_proof(tree(leaves[:old]), tree(leaves[old:size], old))
            assert proof == consistency_proof(leaves[:size], old), (old, size)
