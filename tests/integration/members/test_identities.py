"""Identifiers lead to members; a merge leads one member's to another, rewrites nothing, and can be undone."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import TYPE_CHECKING

import psycopg
import pytest
from isthmus.members.v1 import members_pb2 as pb
from isthmus.members.v1.members_pb2_grpc import DataKeysStub, IdentitiesStub

from mesh.errors import AlreadyExists, FailedPrecondition, InvalidArgument, MeshError, NotFound, PermissionDenied
from private_core.members.identity import MERGES_DEEP_MAX
from tests.integration.members.conftest import READ, REVEAL, WRITE, registered
from tests.integration.room import PrivateRoom, plain

if TYPE_CHECKING:
    from isthmus.members.v1.members_pb2_grpc import IdentitiesAsyncStub, MembersAsyncStub

DEVICE, UNIONID = pb.IDENTIFIER_KIND_DEVICE, pb.IDENTIFIER_KIND_UNIONID


class Identities:
    """The calls of a system, and those of the operator."""

    def __init__(self, room: PrivateRoom, system: "IdentitiesAsyncStub", operator: "IdentitiesAsyncStub") -> None:
        self.room = room
        self.system = system
        self.operator = operator

    async def link(self, member_id: str, kind: pb.IdentifierKind.ValueType, value: str, subject: str = "") -> None:
        request = pb.LinkIdentifierRequest(member_id=member_id, kind=kind, value=value)
        bearer = self.room.bearer(WRITE, subject=subject) if subject else self.room.bearer(WRITE)
        await self.system.LinkIdentifier(request, metadata=bearer)

    async def resolve(self, kind: pb.IdentifierKind.ValueType, value: str) -> str:
        request = pb.ResolveIdentifierRequest(kind=kind, value=value)
        return (await self.system.ResolveIdentifier(request, metadata=self.room.bearer(READ))).member_id

    async def merge(self, kept: str, merged: str) -> None:
        await self.operator.MergeMembers(pb.MergeMembersRequest(kept_member_id=kept, merged_member_id=merged))

    async def split(self, merged: str) -> None:
        await self.operator.SplitMember(pb.SplitMemberRequest(merged_member_id=merged))


@pytest.fixture
async def identities(members: "MembersAsyncStub", room: PrivateRoom) -> AsyncIterator[Identities]:
    async with room.caller() as system, room.caller("operator") as operator:
        yield Identities(room, IdentitiesStub(system), IdentitiesStub(operator))


async def several(members: "MembersAsyncStub", room: PrivateRoom, count: int) -> list[str]:
    return [
        await registered(members, room, f"key-0000000{number:02}", phone=f"138123400{number:02}")
        for number in range(count)
    ]


async def test_an_identifier_leads_to_one_member_and_is_kept_as_a_keyed_hash(
    members: "MembersAsyncStub", room: PrivateRoom, identities: Identities, url: str
) -> None:
    first, second = await several(members, room, 2)
    await identities.link(first, DEVICE, "device-of-first")
    await identities.link(first, DEVICE, "device-of-first")
    await identities.link(second, UNIONID, "device-of-first")
    assert await identities.resolve(DEVICE, "device-of-first") == first
    assert await identities.resolve(UNIONID, "device-of-first") == second
    assert await identities.resolve(pb.IDENTIFIER_KIND_PHONE, "138 1234 0001") == second
    for kind, value in ((DEVICE, "device-of-first"), (pb.IDENTIFIER_KIND_PHONE, "+86 138 1234 0000")):
        with pytest.raises(AlreadyExists, match="IDENTIFIER_TAKEN"):
            await identities.link(second, kind, value)
    with pytest.raises(NotFound):
        await identities.resolve(DEVICE, "device-of-nobody")
    with pytest.raises(NotFound):
        await identities.link("nobody", DEVICE, "device-of-nobody")
    with pytest.raises(InvalidArgument):
        await identities.link(first, pb.IDENTIFIER_KIND_PHONE, "12345")
    with pytest.raises(PermissionDenied, match="NOT_YOUR_RECORD"):
        await identities.link(first, DEVICE, "device-of-second", subject=second)
    request = pb.ResolveIdentifierRequest(kind=DEVICE, value="device-of-first")
    with pytest.raises(PermissionDenied, match="NOT_FOR_MEMBERS"):
        await identities.system.ResolveIdentifier(request, metadata=room.bearer(READ, subject=second))
    with psycopg.connect(plain(url)) as connection:
        stored = connection.execute("SELECT row_to_json(i)::text FROM members.identifier AS i").fetchall()
        noted = connection.execute("SELECT row_to_json(r)::text FROM audit.record AS r").fetchall()
    assert len(stored) == 2
    assert not [row for (row,) in stored + noted if "device-of" in row or b"device-of".hex() in row]
    bearer = room.bearer(REVEAL, subject=first, both=True)
    export = await members.ExportMember(pb.ExportMemberRequest(member_id=first), metadata=bearer)
    assert [each.kind for each in export.identifiers] == [DEVICE]


async def test_a_merge_is_followed_and_a_split_leads_back(
    members: "MembersAsyncStub", room: PrivateRoom, identities: Identities, url: str
) -> None:
    first, second, third = await several(members, room, 3)
    for member_id in (first, second, third):
        await identities.link(member_id, DEVICE, f"device-of-{member_id}")

    async def led() -> list[str]:
        return [await identities.resolve(DEVICE, f"device-of-{each}") for each in (first, second, third)]

    await identities.merge(first, second)
    await identities.merge(first, second)
    await identities.merge(third, first)
    assert await led() == [third, third, third]
    for kept, merged in ((second, third), (third, second), (first, first)):
        with pytest.raises(FailedPrecondition, match="MERGE_IMPOSSIBLE"):
            await identities.merge(kept, merged)
    await identities.split(first)
    await identities.split(first)
    assert await led() == [first, first, third]
    await identities.split(second)
    assert await led() == [first, second, third]
    with pytest.raises(FailedPrecondition, match="NOT_MERGED"):
        await identities.split(third)
    with pytest.raises(NotFound):
        await identities.merge(first, "nobody")
    with psycopg.connect(plain(url)) as connection:
        (merges,) = (
            connection.execute("SELECT count(*) FROM members.merge WHERE split_time IS NOT NULL").fetchone() or ()
        )
        (reason,) = (
            connection.execute(
                "SELECT reason FROM audit.record WHERE method ~ 'MergeMembers' AND result = 'OK' AND data_subject = %s"
                " ORDER BY sequence LIMIT 1",
                (second,),
            ).fetchone()
            or ()
        )
    assert merges == 2
    assert reason == f"MERGED_INTO {first}"


async def test_of_merges_that_would_close_a_circle_together_one_is_refused(
    members: "MembersAsyncStub", room: PrivateRoom, identities: Identities
) -> None:
    first, second = await several(members, room, 2)
    ended = await asyncio.gather(
        identities.merge(first, second), identities.merge(second, first), return_exceptions=True
    )
    assert [type(each) for each in ended if each] == [FailedPrecondition]


async def test_chains_of_merges_are_bounded_from_either_end(
    members: "MembersAsyncStub", room: PrivateRoom, identities: Identities
) -> None:
    chain = await several(members, room, MERGES_DEEP_MAX + 2)
    await identities.link(chain[0], DEVICE, "device-of-the-first")
    for merged, kept in pairwise(chain[:-1]):
        await identities.merge(kept, merged)
    assert await identities.resolve(DEVICE, "device-of-the-first") == chain[-2]
    with pytest.raises(MeshError, match="MERGE_IMPOSSIBLE"):
        await identities.merge(chain[-1], chain[-2])


async def test_who_is_erased_leads_nowhere_and_holds_nobody(
    members: "MembersAsyncStub", room: PrivateRoom, identities: Identities
) -> None:
    first, second = await several(members, room, 2)
    await identities.link(first, DEVICE, "device-of-first")
    await identities.link(second, DEVICE, "device-of-second")
    await identities.merge(first, second)
    async with room.caller("operator") as operator:
        await DataKeysStub(operator).EraseMember(pb.EraseMemberRequest(member_id=first))
    assert await identities.resolve(DEVICE, "device-of-second") == second
    with pytest.raises(NotFound):
        await identities.resolve(DEVICE, "device-of-first")
    # The identifier is free again.
    await identities.link(second, DEVICE, "device-of-first")
    assert await identities.resolve(DEVICE, "device-of-first") == second
