"""What the authorization server puts on record names members by their ids, and by nothing else."""

from pathlib import Path

from mesh.clock import SystemClock
from security.audit.subjects import HASHED, Subjects
from security.oauth.journal import Caller, Journal


def test_whose_data_it_was_is_named_as_the_records_of_calls_name_it(tmp_path: Path) -> None:
    subjects = Subjects.below(tmp_path)
    journal = Journal("oauth", "oauth-1", subjects, SystemClock())
    of_a_member, of_a_phone = (
        journal.record("SignOutEverywhere", Caller(), data_subject=given).data_subject
        for given in ("member-1", "13955501237")
    )
    assert of_a_member == "member-1"
    assert of_a_phone.startswith(HASHED)
    assert of_a_phone == subjects.named("13955501237")


def test_what_a_stranger_calls_their_client_is_named_so_too(tmp_path: Path) -> None:
    journal = Journal("oauth", "oauth-1", Subjects.below(tmp_path), SystemClock())
    clients = [
        journal.record("IssueToken", Caller(), client=given, refused=True).token_client
        for given in ("shop-web", "13955501237", "somebody@mail.example")
    ]
    assert clients[0] == "shop-web"
    assert [each.startswith(HASHED) for each in clients[1:]] == [True, True]
