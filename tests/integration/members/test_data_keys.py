"""Keys are rotated while the room works, and a member's key that is destroyed takes every copy with it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from isthmus.members.v1 import members_pb2 as pb
from isthmus.members.v1.members_pb2_grpc import DataKeysStub, MembersStub

from mesh.errors import NotFound, PermissionDenied
from security.keys.envelope import Envelope
from security.keys.errors import KekUnknown
from security.keys.keyring import Keyring
from security.keys.port import KekRef, WrappedKey
from security.keys.vault import Vault
from tests.integration.members.conftest import PHONE, own_record, registered, store_of
from tests.integration.room import PrivateRoom, plain

if TYPE_CHECKING:
    from isthmus.members.v1.members_pb2_grpc import DataKeysAsyncStub, MembersAsyncStub

MEMBERS = 7
STATUS = pb.GetKeyStatusRequest()


@pytest.fixture
async def keys(members: "MembersAsyncStub", room: PrivateRoom) -> AsyncIterator["DataKeysAsyncStub"]:
    async with room.caller("operator") as channel:
        yield DataKeysStub(channel)


async def phone_of(url: str, keyring: Path, member_id: str) -> str | None:
    async with store_of(url, keyring) as store:
        found = await store.find(member_id)
    return found.particulars.phone if found else None


async def test_a_rotation_goes_on_where_it_ended_and_is_finished_when_none_remain(
    members: "MembersAsyncStub", keys: "DataKeysAsyncStub", room: PrivateRoom, url: str, keyring: Path
) -> None:
    ids = [
        await registered(members, room, f"key-2000000{number}", phone=f"+861381234010{number}")
        for number in range(MEMBERS)
    ]
    before = (await keys.GetKeyStatus(STATUS)).keks[-1]
    assert (before.held, before.data_keys) == (True, MEMBERS)
    for _ in range(2):
        added = await keys.AddKek(pb.AddKekRequest(newest_version=before.version))
        assert added.newest_version == before.version + 1
    first = await keys.RewrapDataKeys(pb.RewrapDataKeysRequest(limit=3))
    assert (first.rewrapped, first.remaining) == (3, MEMBERS - 3)
    # In the middle of it everybody is read, and who comes is under the newest key.
    assert await asyncio.gather(*(phone_of(url, keyring, each) for each in ids)) == [
        f"+861381234010{number}" for number in range(MEMBERS)
    ]
    late = await registered(members, room, "key-20000009", phone="+8613812340109")
    assert (await keys.GetKeyStatus(STATUS)).remaining == MEMBERS - 3
    assert (await keys.RetireKeks(pb.RetireKeksRequest())).retired == list(range(1, before.version))
    # Two at once are no worse than one.
    both = await asyncio.gather(*(keys.RewrapDataKeys(pb.RewrapDataKeysRequest(limit=1000)) for _ in range(2)))
    assert sum(each.rewrapped for each in both) == MEMBERS - 3
    status = await keys.GetKeyStatus(STATUS)
    assert status.remaining == 0
    assert [kek.data_keys for kek in status.keks] == [0, MEMBERS + 1]
    assert (await keys.RetireKeks(pb.RetireKeksRequest())).retired == [before.version]
    record = await own_record(members, room, late)
    assert record.phone == "+8613812340109"
    assert await phone_of(url, keyring, ids[0]) == "+8613812340100"


async def test_an_erased_member_is_unreadable_in_every_copy(
    members: "MembersAsyncStub", keys: "DataKeysAsyncStub", room: PrivateRoom, url: str, keyring: Path
) -> None:
    mine, theirs = (
        await registered(members, room),
        await registered(members, room, "k-other-01", phone="+8613812340100"),
    )
    with psycopg.connect(plain(url)) as connection:
        # A backup: both rows as they were.
        backup = connection.execute(
            "SELECT phone, key_id, kek_id, kek_version, wrapped FROM members.member JOIN members.data_key"
            " ON subject = member_id WHERE member_id = %s",
            (mine,),
        ).fetchone()
    assert backup is not None
    erased = await keys.EraseMember(pb.EraseMemberRequest(member_id=mine))
    # Again is the same.
    assert await keys.EraseMember(pb.EraseMemberRequest(member_id=mine)) == erased
    with pytest.raises(NotFound, match="MEMBER_UNKNOWN"):
        await own_record(members, room, mine)
    assert (await own_record(members, room, theirs)).phone == "+8613812340100"
    async with room.caller("orders") as channel:
        check, bearer = pb.CheckMemberRequest(member_id=mine), room.bearer("orders.write", presenter="orders")
        assert not (await MembersStub(channel).CheckMember(check, metadata=bearer)).registered
    with psycopg.connect(plain(url)) as connection:
        row = connection.execute(
            "SELECT phone_index, phone, name, address, (SELECT count(*) FROM members.data_key WHERE subject = %s)"
            " FROM members.member WHERE member_id = %s",
            (mine, mine),
        ).fetchone()
        on_record = connection.execute(
            "SELECT count(*) FROM audit.record WHERE data_subject = %s AND method LIKE '%%EraseMember'",
            (mine,),
        ).fetchone()
    assert row == (None, None, None, None, 0)
    assert on_record == (2,)
    # The live rows alone do not bring it back; with the backup's key row the old KEK still would, so it is retired.
    phone, key_id, kek_id, kek_version, wrapped = backup
    key = WrappedKey(key_id, KekRef(kek_id, kek_version), wrapped)
    status = await keys.GetKeyStatus(STATUS)
    assert status.erased == 1
    await keys.AddKek(pb.AddKekRequest(newest_version=status.keks[-1].version))
    await keys.RewrapDataKeys(pb.RewrapDataKeysRequest(limit=1000))
    await keys.RetireKeks(pb.RetireKeksRequest())
    with pytest.raises(KekUnknown):
        await Vault(Keyring.open(keyring), "isthmus").key(key, mine)
    assert PHONE.encode() not in Envelope.parse(phone).sealed
    # The phone is free again: who comes back is somebody new.
    assert await registered(members, room, "k-again-01") != mine


async def test_keys_are_the_operators_alone(members: "MembersAsyncStub", room: PrivateRoom) -> None:
    async with room.caller() as channel:
        with pytest.raises(PermissionDenied, match="CALLER_NOT_ALLOWED"):
            await DataKeysStub(channel).EraseMember(pb.EraseMemberRequest(member_id="member-1"))
    async with room.caller("operator") as channel:
        with pytest.raises(NotFound, match="MEMBER_UNKNOWN"):
            await DataKeysStub(channel).EraseMember(pb.EraseMemberRequest(member_id="nobody"))
