"""What logs, traces and errors show of a value follows from the class and mask of its field."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
from google.protobuf import empty_pb2
from isthmus.members.v1 import members_pb2
from isthmus.oauth.v1 import oauth_pb2

from mesh import logs
from mesh.contract import load
from mesh.redaction import HIDDEN, Redaction
from tests.unit.mesh.conftest import Zone

MEMBER = members_pb2.Member(
    member_id="member-1", phone="13812341234", name="Ada Lovelace", address="12 St James's Square, London"
)


@pytest.fixture
def redaction() -> Redaction:
    return Redaction(load())


@pytest.fixture
def lines(private: Zone, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    root, isthmus = logging.getLogger(), logging.getLogger("isthmus")
    before = (list(root.handlers), root.level, isthmus.level)
    logs.configure(private.join("members").settings)
    yield out
    root.handlers[:], root.level, isthmus.level = before
    logging.captureWarnings(False)


def test_a_message_is_shown_as_its_fields_allow(redaction: Redaction) -> None:
    assert redaction.message(MEMBER) == {
        "member_id": "member-1",
        "phone": "138****1234",
        "name": "A*",
        "address": "[redacted, up to 32 characters]",
    }


def test_a_message_inside_another_is_redacted_too(redaction: Redaction) -> None:
    shown = redaction.message(members_pb2.GetMemberResponse(member=MEMBER))
    assert shown["member"]["phone"] == "138****1234"


def test_a_secret_is_not_even_measured(redaction: Redaction) -> None:
    request = oauth_pb2.CreateAccountRequest(login="ada@example.org", password="correct horse")
    assert redaction.message(request)["password"] == HIDDEN
    assert redaction.message(request)["login"] == HIDDEN


def test_a_message_of_no_contract_shows_its_name_alone(redaction: Redaction) -> None:
    assert redaction.message(empty_pb2.Empty()) == {"message": "google.protobuf.Empty"}


def test_no_personal_field_of_the_contract_is_shown_under_its_own_name(redaction: Redaction) -> None:
    names = {
        name
        for fields in load().messages.values()
        for name, policy in fields.items()
        if policy.data_class.name in ("PERSONAL", "SENSITIVE", "SECRET")
    }
    assert {"phone", "name", "address", "login", "password"} <= names
    for name in names:
        assert redaction.named(name, "13812341234 value") != "13812341234 value"


def test_a_log_line_shows_no_personal_value(lines: io.StringIO) -> None:
    logs.logger("members").info("registered", phone="13812341234", token="abc", member=MEMBER, count=3)
    line = json.loads(lines.getvalue())
    assert (line["phone"], line["token"], line["count"]) == ("138****1234", HIDDEN, 3)
    assert (line["event"], line["room"], line["workload"], line["level"]) == (
        "registered",
        "members",
        "members",
        "info",
    )
    assert "12341234" not in lines.getvalue()
    assert "James" not in lines.getvalue()


def test_a_traceback_is_rid_of_what_the_request_holds_of_persons(lines: io.StringIO) -> None:
    request = members_pb2.RegisterMemberRequest(
        idempotency_key="key-0001", phone="13812341234", name="Ada Lovelace", address="12 St James's Square"
    )
    try:
        raise ValueError("duplicate key value (Ada Lovelace, 12 St James's Square, key-0001)")
    except ValueError:
        logs.logger("members").exception("call failed", conceal=request, method="/x")
    text = json.loads(lines.getvalue())["exception"]
    assert "Lovelace" not in text
    assert "James" not in text
    assert "key-0001" in text, "what is no person's stays, or nobody could look for the fault"
    assert "Traceback" in text


def test_a_level_below_the_settings_is_not_written(lines: io.StringIO) -> None:
    logs.logger("members").debug("detail")
    logging.getLogger("library").info("chatter")
    assert lines.getvalue() == ""
