"""`isthmus audit verify`, as it is typed: a healthy log is what was signed; what was done to a harmed one is named."""

import json
from collections.abc import Callable

import pytest

from security.audit.checkpoint import VERIFIER_KEY
from security.audit.findings import Tampering
from security.audit.note import Signer
from tests.audit_verify import audit_verify
from tests.integration.audit.kept_log import LEAVES, ORIGIN, Log
from tests.integration.audit.tamperings import (
    altered,
    altered_everywhere,
    forked,
    inserted,
    removed,
    removed_leaf,
    swapped,
)


def another_key(log: Log) -> None:
    other = Signer.open_or_create(log.home / "other.key", ORIGIN)
    (log.home / VERIFIER_KEY).write_text(f"{other.verifier}\n")


def test_of_a_healthy_log_it_says_that_it_is_what_was_signed(log: Log) -> None:
    said = audit_verify(log.home, database_url=log.url)
    assert said.exit_code == 0, said.output
    assert f"The log is what was signed: {LEAVES} rows, {LEAVES} leaves" in said.stdout
    found = json.loads(audit_verify(log.home, "--json", database_url=log.url).stdout)
    assert (found["ok"], found["findings"], found["newest"]["size"]) == (True, [], LEAVES)


@pytest.mark.parametrize(
    ("tamper", "kind", "leaf"),
    [
        pytest.param(altered, Tampering.ALTERED, 14, id="an altered row"),
        pytest.param(altered_everywhere, Tampering.ALTERED, 10, id="an altered row with all that is stored about it"),
        pytest.param(inserted, Tampering.INSERTED, None, id="an inserted row"),
        pytest.param(swapped, Tampering.REORDERED, 14, id="reordered rows"),
        pytest.param(removed, Tampering.REMOVED, 14, id="a removed row"),
        pytest.param(removed_leaf, Tampering.REMOVED, 14, id="a removed leaf"),
        pytest.param(Log.cut, Tampering.CUT, 25, id="a cut tail"),
        pytest.param(forked, Tampering.FORKED, 20, id="a forked tree"),
        pytest.param(another_key, Tampering.WRONG_KEY, None, id="a wrong key"),
    ],
)
def test_of_a_harmed_log_it_names_what_was_done_and_where(
    log: Log, tamper: Callable[[Log], None], kind: Tampering, leaf: int | None
) -> None:
    tamper(log)
    said = audit_verify(log.home, "--json", database_url=log.url)
    assert said.exit_code == 1, said.output
    found = json.loads(said.stdout)
    assert not found["ok"]
    assert (kind, leaf) in [(finding["kind"], finding["leaf_index"]) for finding in found["findings"]], found
    if kind is Tampering.INSERTED:
        assert {finding["sequence"] for finding in found["findings"]} == {log.sequence(LEAVES) - 1}
    in_words = audit_verify(log.home, database_url=log.url)
    assert in_words.exit_code == 1
    assert "The log is not what was signed" in in_words.stdout
    for finding in found["findings"]:
        assert f"{finding['kind']} {finding['message']}" in in_words.stdout
