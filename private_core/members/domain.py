"""What a member is, and who may see one."""

import unicodedata
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

from private_core.refusals import Absent, Duplicate, Forbidden, Malformed, WrongState

NAME_CHARACTERS_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Particulars:
    """What is personal about a member. Shown in no repr, so that no log or traceback holds it."""

    # E.164.
    phone: str = field(repr=False)
    name: str = field(repr=False)
    address: str = field(repr=False)

    @classmethod
    def of(cls, phone: str, name: str, address: str) -> "Particulars":
        """With the texts in one form (NFC, no space around). Raises Malformed for a name of nothing but space."""
        name, address = (unicodedata.normalize("NFC", text).strip() for text in (name, address))
        if not name:
            raise Malformed("NAME_BLANK", "the name is blank", "send the member's name")
        return cls(phone, name, address)


@dataclass(frozen=True, slots=True)
class Member:
    member_id: str
    particulars: Particulars
    # Microseconds since the epoch.
    registered_time_us: int


class Purpose(StrEnum):
    """What personal data is used for."""

    ACCOUNT = "account"
    DELIVERY = "delivery"
    SUPPORT = "support"
    ANALYTICS = "analytics"
    MARKETING = "marketing"


@dataclass(frozen=True, slots=True)
class Consent:
    """One that was given, or withdrawn."""

    purpose: Purpose
    granted: bool
    # Microseconds since the epoch.
    time_us: int


class Grade(StrEnum):
    """Up to what somebody sees of others' records, in the terms of PIPL and GB/T 35273. Core is shown to nobody."""

    GENERAL = "general"
    SENSITIVE = "sensitive"


@dataclass(frozen=True, slots=True)
class GivenGrade:
    """Times in microseconds since the epoch."""

    subject: str
    grade: Grade
    given_us: int
    ends_us: int


class IdentifierKind(StrEnum):
    """What a member is known by elsewhere."""

    DEVICE = "device"
    PHONE = "phone"
    OPENID = "openid"
    UNIONID = "unionid"


@dataclass(frozen=True, slots=True)
class Linked:
    """That a member has an identifier of a kind, since when. The identifier itself is not kept."""

    kind: IdentifierKind
    # Microseconds since the epoch.
    time_us: int


def require_purpose(member_id: str, subject: str, consented: bool) -> None:
    """Members see what is theirs for any purpose; anybody else for one that the member consents to at this moment."""
    if subject != member_id and not consented:
        raise Forbidden("PURPOSE_NOT_CONSENTED", "the member does not consent to this purpose")


def no_grade() -> Forbidden:
    return Forbidden("GRADE_MISSING", "other members' records are for those alone who were given a grade for them")


def grade_without_end() -> Malformed:
    return Malformed("GRADE_WITHOUT_END", "a grade is given for some days", "say for how many, 366 at most")


class Accounts(Protocol):
    """Port to the authorization server."""

    async def erase(self, member_id: str) -> None:
        """End all that the member has open, and remove their account. That there is none is no error."""


def require_own(member_id: str, subject: str) -> None:
    """A member's record is for that member alone. Whether another one exists is nobody's business either."""
    if subject != member_id:
        raise Forbidden("NOT_YOUR_RECORD", "a member may read no record but their own")


def no_such_member() -> Absent:
    return Absent("MEMBER_UNKNOWN", "there is no such member")


def registered_already() -> Duplicate:
    """Says neither who it is nor by what they were recognised."""
    return Duplicate("MEMBER_EXISTS", "this person is a member already", "let them sign in instead")


def region_other() -> WrongState:
    return WrongState(
        "REGION_OTHER",
        "what is personal about this member stays in another region",
        "register them at that region's store",
    )


def identifier_taken() -> Duplicate:
    """Says not whose it is."""
    return Duplicate(
        "IDENTIFIER_TAKEN", "this identifier leads to another member", "if both are one person, merge them"
    )


def merge_impossible() -> WrongState:
    return WrongState(
        "MERGE_IMPOSSIBLE",
        "this member is merged already, or the merge would close a circle or be too deep",
        "split it first, or merge into the member that the others lead to",
    )


def not_merged() -> WrongState:
    return WrongState("NOT_MERGED", "this member is not merged into another")


def require_system(subject: str) -> None:
    """Whose an identifier is, is no member's business."""
    if subject:
        raise Forbidden("NOT_FOR_MEMBERS", "a member may not ask whose an identifier is")
