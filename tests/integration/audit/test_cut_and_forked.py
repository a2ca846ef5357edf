"""A log that was cut, or signed twice, or by another, is told by the checkpoints that were handed out."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from security.audit.findings import Tampering
from security.audit.note import Signer
from security.audit.tree_store import LogDamaged
from tests.integration.audit.kept_log import BATCHES, LEAVES, ORIGIN, Log, record
from tests.integration.audit.tamperings import cut_rows, cut_rows_and_leaves, told_anew


@pytest.mark.parametrize("cut", [cut_rows, cut_rows_and_leaves, Log.cut])
def test_a_cut_tail_is_found(log: Log, cut: Callable[[Log], None]) -> None:
    cut(log)
    findings = log.verify().findings
    assert Tampering.CUT in {finding.kind for finding in findings}
    assert {finding.kind for finding in findings} <= {Tampering.CUT, Tampering.UNSIGNED}
    assert min(finding.leaf_index for finding in findings if finding.leaf_index is not None) == 25


def test_nothing_is_signed_on_a_log_that_was_cut(log: Log) -> None:
    log.cut()
    log.write(record(LEAVES))
    with pytest.raises(LogDamaged):
        log.sign()
    assert len(log.file.notes()) == BATCHES


def test_a_fork_is_found(log: Log) -> None:
    handed_out = log.file.notes()
    told_anew(log)
    assert log.verify().ok
    for note in handed_out:
        log.file.append(note)
    (finding,) = log.verify().findings
    assert finding.kind is Tampering.FORKED
    assert (finding.leaf_index, finding.leaf_end) == (20, LEAVES)


def test_a_wrong_key_is_named(log: Log) -> None:
    other = Signer.open_or_create(log.home / "other.key", ORIGIN)
    kinds = [finding.kind for finding in log.verify(other.verifier).findings]
    assert kinds == [Tampering.WRONG_KEY, Tampering.UNSIGNED]
    signed_again = replace(log, signer=other)
    signed_again.sql("DELETE FROM audit.checkpoint", "DELETE FROM audit.leaf")
    log.checkpoints.unlink()
    signed_again.sign()
    assert signed_again.verify().ok
    assert Tampering.WRONG_KEY in {finding.kind for finding in log.verify().findings}


def test_a_forged_checkpoint_does_not_count(log: Log) -> None:
    log.sql(f"UPDATE audit.checkpoint SET note = replace(note, E'\\n{LEAVES}\\n', E'\\n{LEAVES + 1}\\n')")
    assert {finding.kind for finding in log.verify().findings} == {Tampering.ALTERED}


def test_a_checkpoint_file_that_was_taken_away_is_missed(log: Log) -> None:
    assert log.verify(later_s=60).ok
    log.checkpoints.unlink()
    (finding,) = log.verify(later_s=60).findings
    assert finding.kind is Tampering.CUT
    assert "checkpoint file" in finding.message
