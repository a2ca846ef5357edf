"""An export proves itself: with the public key alone, whatever was done to the file is found and named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from typer.testing import Result

from security.audit import ocsf
from security.audit.checkpoint import Checkpoint
from security.audit.export import ExportMalformed, verify_export
from security.audit.findings import KeptNote, Tampering
from security.audit.merkle import tree
from security.audit.note import Signer, Verifier
from security.audit.record import AuditRecord, Decision
from tests.audit_verify import audit_verify

ORIGIN = "isthmus.internal/audit"
RECORDS = [
    AuditRecord(
        record_id=f"{number:032x}",
        time_us=1_700_000_000_000_000 + number,
        peer="spiffe://isthmus.internal/private/core-gateway",
        token_subject="member-1",
        token_client="storefront",
        method="/isthmus.members.v1.Members/GetMember",
        data_subject=f"member-{number}",
        decision=Decision.ALLOWED,
        result="OK",
        reason="",
        trace_id="f" * 32,
        workload="members",
        node="members-1",
    )
    for number in range(12)
]
HASHES = [record.leaf_hash() for record in RECORDS]
SIZES = (5, 9, 12)

Events = list[dict[str, Any]]


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer.open_or_create(tmp_path / "checkpoint.key", ORIGIN)


def note(signer: Signer, size: int) -> str:
    return signer.sign(Checkpoint(ORIGIN, size, tree(HASHES[:size]).root()).text)


def exported(signer: Signer, first: int = 0, end: int = len(RECORDS)) -> Events:
    events: Events = []
    for index in range(first, end):
        if index in SIZES:
            events.append(ocsf.checkpoint(note(signer, index), 1))
        events.append(ocsf.event(RECORDS[index], index + 100, index))
    proof = (first, end, tree(HASHES[:first]).hashes, tree(HASHES[end:], end).hashes)
    return [*events, ocsf.checkpoint(note(signer, len(RECORDS)), 1, proof)]


def lines(events: Events) -> list[str]:
    return [json.dumps(event) for event in events]


@pytest.mark.parametrize(("first", "end"), [(0, 12), (3, 12), (0, 7), (5, 9), (6, 7), (12, 12)])
def test_an_export_of_any_range_verifies(signer: Signer, first: int, end: int) -> None:
    report = verify_export(lines(exported(signer, first, end)), (), signer.verifier)
    assert report.findings == []
    assert (report.rows, report.leaves) == (end - first, end - first)
    assert report.newest is not None
    assert report.newest.size == len(RECORDS)


def calls(events: Events) -> Events:
    return [event for event in events if event["class_uid"] == ocsf.API_ACTIVITY]


def alter_record(events: Events) -> None:
    calls(events)[6]["unmapped"]["record"]["data_subject"] = "member-99"


def alter_event(events: Events) -> None:
    calls(events)[6]["actor"]["user"]["uid"] = "member-99"


def alter_all(events: Events) -> None:
    place = events.index(calls(events)[6])
    events[place] = ocsf.event(replace(RECORDS[6], data_subject="member-99"), 106, 6)


def remove(events: Events) -> None:
    events.remove(calls(events)[6])


def repeat(events: Events) -> None:
    events.insert(events.index(calls(events)[6]), calls(events)[6])


def insert(events: Events) -> None:
    forged = ocsf.event(replace(RECORDS[6], record_id="f" * 32), 106, 6)
    for event in calls(events)[6:]:
        event["unmapped"]["leaf_index"] += 1
        event["metadata"]["sequence"] += 1
        event["unmapped"]["sequence"] += 1
    events.insert(events.index(calls(events)[6]), forged)


def swap(events: Events) -> None:
    first, second = (events.index(calls(events)[index]) for index in (6, 7))
    events[first], events[second] = events[second], events[first]


def cut_lines(events: Events) -> None:
    del events[-3:-1]


def cut_end(events: Events) -> None:
    del events[-1]


def forge_checkpoint(events: Events) -> None:
    forged = Checkpoint(ORIGIN, 5, bytes(32)).text
    signed = events[5]["unmapped"]["checkpoint"]
    events[5]["unmapped"]["checkpoint"] = forged + signed[signed.index("\n\n") + 1 :]


harmed = pytest.mark.parametrize(
    ("tamper", "kind", "leaf"),
    [
        (alter_record, Tampering.ALTERED, 6),
        (alter_event, Tampering.ALTERED, 6),
        (alter_all, Tampering.ALTERED, 5),
        (remove, Tampering.REMOVED, 6),
        (repeat, Tampering.REORDERED, 6),
        (insert, Tampering.ALTERED, 5),
        (swap, Tampering.REORDERED, 6),
        (cut_lines, Tampering.CUT, 10),
        (cut_end, Tampering.CUT, None),
        (forge_checkpoint, Tampering.ALTERED, None),
    ],
)


@harmed
def test_what_was_done_to_the_file_is_named(
    signer: Signer, tamper: Callable[[Events], None], kind: Tampering, leaf: int | None
) -> None:
    events = exported(signer)
    tamper(events)
    findings = verify_export(lines(events), (), signer.verifier).findings
    assert (kind, leaf) in [(finding.kind, finding.leaf_index) for finding in findings]


@pytest.fixture
def offline(signer: Signer, tmp_path: Path) -> Callable[..., Result]:
    """`isthmus audit verify --export` where there is nothing of the mesh but the file and the public key."""
    nowhere = tmp_path / "nowhere"

    def verified(events: Events, key: Verifier = signer.verifier, *words: str) -> Result:
        file, public = tmp_path / "export.jsonl", tmp_path / "log.pub"
        file.write_text("".join(f"{line}\n" for line in lines(events)))
        public.write_text(f"{key}\n")
        said = audit_verify(nowhere, "--export", str(file), "--key", str(public), *words)
        assert not nowhere.exists()
        return said

    return verified


def test_the_command_says_of_a_healthy_export_that_it_is_what_was_signed(
    signer: Signer, offline: Callable[..., Result]
) -> None:
    said = offline(exported(signer))
    assert said.exit_code == 0, said.output
    assert "The log is what was signed: 12 rows, 12 leaves" in said.stdout


@harmed
def test_the_command_names_what_was_done_to_the_file(
    signer: Signer, offline: Callable[..., Result], tamper: Callable[[Events], None], kind: Tampering, leaf: int | None
) -> None:
    events = exported(signer)
    tamper(events)
    said = offline(events, signer.verifier, "--json")
    assert said.exit_code == 1, said.output
    found = json.loads(said.stdout)
    assert not found["ok"]
    assert (kind, leaf) in [(finding["kind"], finding["leaf_index"]) for finding in found["findings"]]
    assert f"{kind} " in offline(events).stdout


def test_the_command_names_a_fork_by_a_checkpoint_from_elsewhere_and_a_key_that_is_not_the_logs(
    signer: Signer, offline: Callable[..., Result], tmp_path: Path
) -> None:
    other_story = signer.sign(Checkpoint(ORIGIN, 9, bytes(32)).text)
    (tmp_path / "handed-out.txt").write_text(other_story)
    forked = offline(exported(signer), signer.verifier, "--checkpoints", str(tmp_path / "handed-out.txt"))
    assert forked.exit_code == 1
    assert "forked " in forked.stdout
    other = Signer.open_or_create(tmp_path / "other.key", ORIGIN).verifier
    refused = offline(exported(signer), other)
    assert refused.exit_code == 1
    assert "wrong-key " in refused.stdout


def test_an_older_export_is_told_by_a_checkpoint_from_elsewhere(signer: Signer) -> None:
    events = exported(signer)[:6]
    events[-1] = ocsf.checkpoint(note(signer, 5), 1, (0, 5, (), ()))
    assert verify_export(lines(events), (), signer.verifier).ok
    elsewhere = [KeptNote(note(signer, 12), "the witness")]
    (finding,) = verify_export(lines(events), elsewhere, signer.verifier).findings
    assert (finding.kind, finding.leaf_index, finding.leaf_end) == (Tampering.CUT, 5, 12)


def test_another_key_verifies_nothing(signer: Signer, tmp_path: Path) -> None:
    other = Signer.open_or_create(tmp_path / "other.key", ORIGIN).verifier
    kinds = {finding.kind for finding in verify_export(lines(exported(signer)), (), other).findings}
    assert kinds == {Tampering.WRONG_KEY, Tampering.UNSIGNED}


@pytest.mark.parametrize("line", ["", "{}", "[]", '{"class_uid": 6003, "unmapped": {"leaf_index": "x"}}', "\ufffd"])
def test_a_file_that_is_no_export_is_refused_by_line(signer: Signer, line: str) -> None:
    with pytest.raises(ExportMalformed, match="line 1"):
        verify_export([line], (), signer.verifier)


def test_an_event_says_what_ocsf_asks_for() -> None:
    denied = replace(RECORDS[0], decision=Decision.DENIED, result="PERMISSION_DENIED", reason="SCOPE_MISSING")
    event = ocsf.event(denied, 1, 0)
    assert (event["category_uid"], event["class_uid"], event["activity_id"], event["type_uid"]) == (6, 6003, 2, 600302)
    assert (event["severity_id"], event["status_id"], event["status_code"]) == (3, 2, "PERMISSION_DENIED")
    assert event["status_detail"] == "SCOPE_MISSING"
    assert event["time"] == 1_700_000_000_000
    assert event["metadata"]["product"]["name"] == "Isthmus"
    assert event["api"]["operation"] == "GetMember"
    assert event["actor"]["user"]["uid"] == "member-1"
    assert event["resources"][0]["uid"] == "member-0"
    # The schema wants a source even where the caller showed no certificate.
    assert ocsf.event(replace(denied, peer=""), 1, 0)["src_endpoint"]["uid"]
