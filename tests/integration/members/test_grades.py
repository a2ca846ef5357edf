"""Others' records are for those alone who were given a grade, up to its class, and no longer than it lasts."""

from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from isthmus.members.v1 import members_pb2 as pb
from isthmus.members.v1.members_pb2_grpc import DataKeysStub, GradesStub

from mesh.errors import InvalidArgument, PermissionDenied
from private_core.members.domain import Grade
from private_core.members.grades import Grades
from tests.integration.members.conftest import ADDRESS, NAME, PHONE, REVEAL, WRITE, graded, registered, store_of
from tests.integration.removing import Ahead
from tests.integration.room import PrivateRoom, plain

if TYPE_CHECKING:
    from isthmus.members.v1.members_pb2_grpc import MembersAsyncStub

STAFF = "member-of-staff"


@pytest.fixture
async def member_id(members: "MembersAsyncStub", room: PrivateRoom) -> str:
    """Of somebody who consents to support."""
    member_id = await registered(members, room)
    consent = pb.SetConsentRequest(member_id=member_id, purpose=pb.PURPOSE_SUPPORT, granted=True)
    await members.SetConsent(consent, metadata=room.bearer(WRITE, subject=member_id))
    return member_id


async def seen(members: "MembersAsyncStub", room: PrivateRoom, member_id: str, by: str = STAFF) -> pb.Member:
    request = pb.RevealMemberRequest(member_id=member_id, purpose=pb.PURPOSE_SUPPORT)
    return (await members.RevealMember(request, metadata=room.bearer(REVEAL, subject=by, both=True))).member


async def test_each_grade_shows_its_classes_and_masks_what_is_above(
    members: "MembersAsyncStub", room: PrivateRoom, member_id: str, url: str
) -> None:
    # Scope, second factor and consent are not enough: every member's token may have them.
    with pytest.raises(PermissionDenied, match="GRADE_MISSING"):
        await seen(members, room, member_id)
    await graded(room, STAFF, pb.GRADE_GENERAL)
    general = await seen(members, room, member_id)
    assert (general.phone, general.name) == (PHONE, NAME)
    assert general.address != ADDRESS
    assert "Quillfeather" not in general.address
    await graded(room, STAFF, pb.GRADE_SENSITIVE)
    assert (await seen(members, room, member_id)).address == ADDRESS
    with pytest.raises(PermissionDenied, match="GRADE_MISSING"):
        await seen(members, room, member_id, by="another-member")
    # From the very next call on.
    assert await graded(room, STAFF, pb.GRADE_UNSPECIFIED) == 0
    with pytest.raises(PermissionDenied, match="GRADE_MISSING"):
        await seen(members, room, member_id)
    assert (await seen(members, room, member_id, by=member_id)).address == ADDRESS
    with psycopg.connect(plain(url)) as connection:
        said = connection.execute(
            "SELECT reason FROM audit.record WHERE token_subject = %s OR data_subject = %s ORDER BY sequence",
            (STAFF, STAFF),
        ).fetchall()
    assert [reason for (reason,) in said] == [
        "GRADE_MISSING",
        "GRADE_GENERAL 30 days",
        "PURPOSE_SUPPORT PERSONAL",
        "GRADE_SENSITIVE 30 days",
        "PURPOSE_SUPPORT SENSITIVE",
        "GRADE_TAKEN",
        "GRADE_MISSING",
    ]


async def test_a_grade_ends_by_itself_and_nobody_is_given_core(
    members: "MembersAsyncStub", room: PrivateRoom, url: str, keyring: Path
) -> None:
    ends_us = await graded(room, STAFF, pb.GRADE_GENERAL, days=1)
    async with store_of(url, keyring) as store:
        assert await Grades(store._engine, Ahead(0.9)).held(STAFF) is Grade.GENERAL
        assert await Grades(store._engine, Ahead(1.1)).held(STAFF) is None
        assert await Grades(store._engine, Ahead(1.1)).given() == []
    with pytest.raises(InvalidArgument, match="GRADE_WITHOUT_END"):
        await graded(room, STAFF, pb.GRADE_SENSITIVE, days=0)
    for grade, days in ((pb.GRADE_CORE, 1), (pb.GRADE_GENERAL, 367)):
        with pytest.raises(InvalidArgument):
            await graded(room, STAFF, grade, days)
    async with room.caller("operator") as channel:
        (given,) = (await GradesStub(channel).ListGrades(pb.ListGradesRequest())).grades
    assert (given.subject, given.grade, given.ends_time_us) == (STAFF, pb.GRADE_GENERAL, ends_us)
    async with room.caller() as channel:
        with pytest.raises(PermissionDenied, match="CALLER_NOT_ALLOWED"):
            await GradesStub(channel).ListGrades(pb.ListGradesRequest())


async def test_who_is_erased_keeps_no_grade(members: "MembersAsyncStub", room: PrivateRoom, member_id: str) -> None:
    await graded(room, member_id, pb.GRADE_GENERAL)
    async with room.caller("operator") as channel:
        await DataKeysStub(channel).EraseMember(pb.EraseMemberRequest(member_id=member_id))
        assert not (await GradesStub(channel).ListGrades(pb.ListGradesRequest())).grades
