"""Whoever owns the database can write anything into it, and cannot do so unseen: each change is found and named."""

from collections.abc import Callable

import pytest

from security.audit.findings import Tampering
from tests.integration.audit.kept_log import BATCH, LEAVES, Log, record
from tests.integration.audit.tamperings import (
    altered,
    altered_beyond_what_a_record_holds,
    altered_column,
    altered_everywhere,
    altered_leaf,
    altered_with_its_column,
    inserted,
    removed,
    removed_leaf,
    removed_with_its_leaf,
    swapped,
    swapped_leaves,
)


def test_a_healthy_log_verifies(log: Log) -> None:
    report = log.verify()
    assert report.findings == []
    assert (report.rows, report.leaves, report.pending) == (LEAVES, LEAVES, 0)
    assert report.newest is not None
    assert report.newest.size == LEAVES
    log.write(record(LEAVES))
    report = log.verify()
    assert report.ok
    assert report.pending == 1


@pytest.mark.parametrize(
    ("tamper", "kind"),
    [
        (altered, Tampering.ALTERED),
        (altered_beyond_what_a_record_holds, Tampering.ALTERED),
        (altered_with_its_column, Tampering.ALTERED),
        (altered_column, Tampering.ALTERED),
        (altered_leaf, Tampering.ALTERED),
        (removed, Tampering.REMOVED),
        (removed_leaf, Tampering.REMOVED),
        (removed_with_its_leaf, Tampering.REMOVED),
        (swapped, Tampering.REORDERED),
        (swapped_leaves, Tampering.REORDERED),
    ],
)
def test_what_was_done_to_a_row_is_named_with_the_row(log: Log, tamper: Callable[[Log], None], kind: Tampering) -> None:
    sequence = log.sequence(14)
    tamper(log)
    report = log.verify()
    assert {finding.kind for finding in report.findings} == {kind}, report.findings
    about = {14, 15} if kind is Tampering.REORDERED else {14}
    assert {finding.leaf_index for finding in report.findings} == about
    if tamper is not removed_with_its_leaf:
        assert sequence in {finding.sequence for finding in report.findings}


def test_a_row_changed_with_all_that_is_stored_about_it_is_found_by_the_signed_root(log: Log) -> None:
    altered_everywhere(log)
    (finding,) = log.verify().findings
    assert finding.kind is Tampering.ALTERED
    assert finding.leaf_index is not None
    assert finding.leaf_end is not None
    # As close as the signed subtrees tell.
    assert finding.leaf_index <= 14 < finding.leaf_end
    assert finding.leaf_end - finding.leaf_index <= BATCH


def test_an_inserted_row_is_named(log: Log) -> None:
    inserted(log)
    gap = log.sequence(LEAVES) - 1
    findings = log.verify().findings
    assert {finding.kind for finding in findings if finding.sequence == gap} >= {Tampering.INSERTED}
    assert {finding.sequence for finding in findings} == {gap}


def test_sequence_numbers_without_a_row_are_no_tampering(log: Log) -> None:
    log.one("SELECT nextval('audit.record_sequence_seq')")
    log.write(record(LEAVES))
    log.sign()
    assert log.verify().ok
