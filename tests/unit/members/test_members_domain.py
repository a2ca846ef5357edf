"""A record is for its own member alone, and personal values show nowhere by accident."""

import pytest
from sqlalchemy.engine.default import DefaultDialect

from private_core.members.domain import Member, Particulars, registered_already, require_own
from private_core.members.store import MEMBER
from private_core.refusals import Forbidden, Malformed
from private_core.storage.encrypted import Encrypted, RowCipher
from security.keys.envelope import DataKey
from security.keys.port import KekRef


def test_a_record_is_for_its_own_member_alone() -> None:
    require_own("member-1", "member-1")
    for other in ("member-2", "", "MEMBER-1", "storefront"):
        with pytest.raises(Forbidden):
            require_own("member-1", other)


def test_particulars_show_in_no_repr() -> None:
    shown = repr(Member("member-1", Particulars.of("+8613812340099", "Marisol", "7 Quillfeather Lane"), 1))
    assert "member-1" in shown
    for value in ("138", "Marisol", "Quillfeather"):
        assert value not in shown


def test_names_and_addresses_have_one_form() -> None:
    composed, decomposed = "Zo\u00eb", " Zoe\u0308 "
    assert Particulars.of("+1", composed, "") == Particulars.of("+1", decomposed, " ")
    with pytest.raises(Malformed):
        Particulars.of("+1", " \u3000", "")


def test_the_refusal_of_a_second_registration_names_nobody() -> None:
    assert "phone" not in registered_already().message


def test_an_encrypted_column_takes_no_plaintext_and_does_not_repeat_it() -> None:
    with pytest.raises(TypeError) as refused:
        Encrypted().bind_processor(DefaultDialect())(b"+8613812340099")
    assert "138" not in str(refused.value)


def test_no_encrypted_column_can_be_forgotten() -> None:
    key = DataKey(b"\x01" * 16, KekRef("local", 1), b"\x02" * 32)
    with pytest.raises(ValueError, match="address, name"):
        RowCipher(MEMBER, "isthmus").seal(key, "member-1", {"name": "n", "address": "a"})
