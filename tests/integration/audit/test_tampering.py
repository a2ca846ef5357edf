"""Whoever owns the database can write anything into it, and cannot do so unseen: each change is found and named."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from security.audit.findings import Tampering
from tests.integration.audit.kept_log import BATCH, COLUMNS, LEAVES, Log, record


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


def altered(log: Log) -> None:
    log.sql(f"UPDATE audit.record SET data_subject = 'member-99' WHERE sequence = {log.sequence(14)}")


def altered_beyond_what_a_record_holds(log: Log) -> None:
    log.sql(
        "ALTER TABLE audit.record DROP CONSTRAINT record_decision_check",
        f"UPDATE audit.record SET decision = 7 WHERE sequence = {log.sequence(14)}",
    )


def altered_with_its_column(log: Log) -> None:
    changed = replace(log.row(14), data_subject="member-99").leaf_hash().hex()
    log.sql(
        f"UPDATE audit.record SET data_subject = 'member-99', leaf_hash = '\\x{changed}'"
        f" WHERE sequence = {log.sequence(14)}"
    )


def altered_column(log: Log) -> None:
    log.sql(f"UPDATE audit.record SET leaf_hash = sha256('x') WHERE sequence = {log.sequence(14)}")


def altered_leaf(log: Log) -> None:
    log.sql("UPDATE audit.leaf SET leaf_hash = sha256('x') WHERE leaf_index = 14")


def removed(log: Log) -> None:
    log.sql(f"DELETE FROM audit.record WHERE sequence = {log.sequence(14)}")


def removed_leaf(log: Log) -> None:
    log.sql("DELETE FROM audit.leaf WHERE leaf_index = 14")


def removed_with_its_leaf(log: Log) -> None:
    log.sql(
        f"DELETE FROM audit.record WHERE sequence = {log.sequence(14)}",
        "DELETE FROM audit.leaf WHERE leaf_index = 14",
    )


def swapped(log: Log) -> None:
    first, second = log.sequence(14), log.sequence(15)
    update = "UPDATE audit.record SET sequence = {} WHERE sequence = {}"
    log.sql(
        "ALTER TABLE audit.record ALTER sequence DROP IDENTITY",
        update.format(-1, first),
        update.format(first, second),
        update.format(second, -1),
    )


def swapped_leaves(log: Log) -> None:
    first, second = log.sequence(14), log.sequence(15)
    update = "UPDATE audit.leaf SET record_sequence = {} WHERE leaf_index = {}"
    log.sql(update.format(-1, 14), update.format(first, 15), update.format(second, 14))


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
    altered_with_its_column(log)
    log.sql(
        "UPDATE audit.leaf SET leaf_hash = (SELECT leaf_hash FROM audit.record WHERE sequence = record_sequence)"
        " WHERE leaf_index = 14"
    )
    (finding,) = log.verify().findings
    assert finding.kind is Tampering.ALTERED
    assert finding.leaf_index is not None
    assert finding.leaf_end is not None
    # As close as the signed subtrees tell.
    assert finding.leaf_index <= 14 < finding.leaf_end
    assert finding.leaf_end - finding.leaf_index <= BATCH


def test_an_inserted_row_is_named(log: Log) -> None:
    # A number that was drawn and never used: a gap as any aborted transaction leaves it.
    log.one("SELECT nextval('audit.record_sequence_seq')")
    log.write(record(LEAVES))
    log.sign()
    gap = log.sequence(LEAVES) - 1
    log.sql(
        f"INSERT INTO audit.record (sequence, {COLUMNS}) OVERRIDING SYSTEM VALUE SELECT {gap}, gen_random_uuid(),"
        f" {COLUMNS.partition(', ')[2]} FROM audit.record WHERE sequence = {log.sequence(3)}"
    )
    findings = log.verify().findings
    assert {finding.kind for finding in findings if finding.sequence == gap} >= {Tampering.INSERTED}
    assert {finding.sequence for finding in findings} == {gap}


def test_sequence_numbers_without_a_row_are_no_tampering(log: Log) -> None:
    log.one("SELECT nextval('audit.record_sequence_seq')")
    log.write(record(LEAVES))
    log.sign()
    assert log.verify().ok
