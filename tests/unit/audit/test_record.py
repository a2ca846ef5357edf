"""A record has one canonical form and one leaf hash."""

import hashlib
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from security.audit.record import TEXT_CHARACTERS_MAX, AuditRecord, Decision, clean

RECORD = AuditRecord(
    record_id="0" * 32,
    time_us=1_700_000_000_000_000,
    peer="spiffe://isthmus.internal/private/core-gateway",
    token_subject="member-1",
    token_client="storefront",
    method="/isthmus.members.v1.Members/GetMember",
    data_subject="member-1",
    decision=Decision.ALLOWED,
    result="OK",
    reason="",
    trace_id="f" * 32,
    workload="members",
    node="members-1",
)


TEXT = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from('\x00\x1f\x7f\b\t\n\f\r"\\/\u2028\ufeff\U0010ffff')
)
RECORDS = st.builds(
    AuditRecord,
    **{field.name: TEXT for field in structs.fields(AuditRecord) if field.name not in ("time_us", "decision")},
    time_us=st.integers(-(2**53) + 1, 2**53 - 1),
    decision=st.sampled_from(Decision),
)


@given(RECORDS)
def test_the_canonical_form_is_rfc_8785(record: AuditRecord) -> None:
    fields = structs.asdict(record) | {"decision": record.decision.name}
    assert record.canonical() == rfc8785.dumps(fields)


def test_the_leaf_hash_is_rfc_6962() -> None:
    assert RECORD.leaf_hash() == hashlib.sha256(b"\x00" + RECORD.canonical()).digest()


@pytest.mark.parametrize("field", [field.name for field in structs.fields(AuditRecord)])
def test_every_field_is_in_the_leaf(field: str) -> None:
    others: dict[str, Any] = {"decision": Decision.DENIED, "time_us": 1}
    assert structs.replace(RECORD, **{field: others.get(field, "other")}).leaf_hash() != RECORD.leaf_hash()


def test_text_from_outside_is_bounded_and_storable() -> None:
    assert len(clean("x" * 10_000)) == TEXT_CHARACTERS_MAX
    assert "\x00" not in clean("a\x00b")
