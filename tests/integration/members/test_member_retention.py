"""What is personal goes when its member has not been there for as long as the contract keeps its class."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from isthmus.members.v1 import members_pb2 as pb

from mesh.contract import load
from mesh.database.engine import async_engine
from mesh.errors import NotFound, Unavailable
from private_core.members.accounts import AccountErasure
from private_core.members.identity import IdentityGraph
from private_core.members.retention import MemberRetention
from private_core.members.store import MemberStore
from security.keys.blind_index import BlindIndex
from security.keys.envelope import Envelope, Place
from security.keys.errors import EnvelopeRejected
from security.keys.keyring import Keyring
from security.keys.port import WrappedKey
from security.keys.vault import Vault
from tests.integration.members.conftest import (
    ADDRESS,
    NAME,
    PHONE,
    ErasedAccounts,
    own_record,
    registered,
    store_of,
)
from tests.integration.removing import Ahead, remover
from tests.integration.room import PrivateRoom, own, plain

if TYPE_CHECKING:
    from isthmus.members.v1.members_pb2_grpc import MembersAsyncStub

PERSONAL, SENSITIVE = 1095, 365


async def retained(url: str, keyring: Path, days: float, vault: type[Vault] = Vault) -> int:
    """A round of retention so many days from now."""
    engine = async_engine(own(url, "members"))
    try:
        return await MemberRetention(engine, vault(Keyring.open(keyring), "isthmus"), load(), remover(days)).round()
    finally:
        await engine.dispose()


def sql(url: str, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(plain(url), autocommit=True) as connection:
        found = connection.execute(statement, values)
        return found.fetchall() if found.description else []


def on_record(url: str, member_id: str) -> list[str]:
    reasons = (
        "SELECT reason FROM audit.record WHERE method LIKE '%%Retention%%' AND data_subject = %s ORDER BY sequence"
    )
    return [reason for (reason,) in sql(url, reasons, member_id)]


async def opened(url: str, keyring: Path, member_id: str, envelope: bytes) -> str:
    """What the member's data key of this moment opens of a copy of their address."""
    ((key_id, version, wrapped),) = sql(url, "SELECT key_id, kek_version, wrapped FROM members.data_key")
    ring = Keyring.open(keyring)
    kek = next(kek for kek in await ring.held() if kek.version == version)
    key = await Vault(ring, "isthmus").key(WrappedKey(key_id, kek, wrapped), member_id)
    return key.open(Envelope.parse(envelope), Place("isthmus", "members.member", "address", member_id)).decode()


async def test_what_is_sensitive_goes_first_and_from_every_copy(
    members: "MembersAsyncStub", room: PrivateRoom, url: str, keyring: Path
) -> None:
    member_id = await registered(members, room)
    ((copy,),) = sql(url, "SELECT address FROM members.member")
    assert await retained(url, keyring, SENSITIVE - 1) == 0
    assert await opened(url, keyring, member_id, copy) == ADDRESS
    assert await retained(url, keyring, SENSITIVE + 1) == 1
    with pytest.raises(EnvelopeRejected):
        await opened(url, keyring, member_id, copy)
    assert await retained(url, keyring, SENSITIVE + 1) == 0
    assert on_record(url, member_id) == ["REMOVED 1 members.member.address"]
    kept = await own_record(members, room, member_id)
    assert (kept.phone, kept.name, kept.address) == (PHONE, NAME, "")


async def test_who_never_came_back_is_erased_and_who_did_is_not(
    members: "MembersAsyncStub", room: PrivateRoom, url: str, keyring: Path
) -> None:
    gone, merged, back, there = [
        await registered(members, room, f"key-4000000{number}", phone=f"+861381234030{number}") for number in range(4)
    ]
    graph = async_engine(own(url, "members"))
    ring = Keyring.open(keyring)
    index = BlindIndex(await ring.index_key("members.identifier"))
    phones = BlindIndex(await ring.index_key("members.phone"))
    await IdentityGraph(graph, index, phones, "CN").merge(there, merged, 0)
    # They look at their own record, and a shop asks for them, more than two years from now.
    later = MemberStore(graph, Vault(ring, "isthmus"), phones, "CN", Ahead(800))
    assert await later.find(back) is not None
    assert await later.exists(there)
    await graph.dispose()

    assert await retained(url, keyring, PERSONAL - 1) == 1
    assert await retained(url, keyring, PERSONAL + 1) == 1
    erased = sql(url, "SELECT member_id FROM members.member WHERE erased_time IS NOT NULL")
    assert erased == [(gone,)]
    with pytest.raises(NotFound):
        await own_record(members, room, gone)
    assert sql(url, "SELECT count(*) FROM members.data_key WHERE subject = %s", gone) == [(0,)]
    assert on_record(url, gone)[-1] == "REMOVED 1 members.member"
    for member_id in (back, merged, there):
        assert (await own_record(members, room, member_id)).name == NAME
    assert await retained(url, keyring, PERSONAL + 1) == 0


async def test_the_account_of_who_was_erased_follows_once_the_authorization_server_answers(
    members: "MembersAsyncStub", room: PrivateRoom, url: str, keyring: Path, accounts: ErasedAccounts
) -> None:
    gone = await registered(members, room)
    await retained(url, keyring, PERSONAL + 1)
    there = await registered(members, room, "key-00000002")
    engine = async_engine(own(url, "members"))
    erasure = AccountErasure(engine, accounts, Ahead(0))
    accounts.away = True
    with pytest.raises(Unavailable):
        await erasure.round()
    assert accounts.erased == []
    accounts.away = False
    assert await erasure.round() == 1
    assert await erasure.round() == 0
    await engine.dispose()
    assert accounts.erased == [gone]
    assert (await own_record(members, room, there)).name == NAME


async def test_who_comes_back_while_their_values_go_keeps_all_of_them(
    members: "MembersAsyncStub", room: PrivateRoom, url: str, keyring: Path
) -> None:
    member_id = await registered(members, room)

    class Slow(Vault):
        async def new_key(self, subject: str) -> Any:
            sql(url, "UPDATE members.member SET used_time = now() + interval '2 years'")
            return await super().new_key(subject)

    before = sql(url, "SELECT * FROM members.data_key")
    assert await retained(url, keyring, SENSITIVE + 1, Slow) == 0
    assert sql(url, "SELECT * FROM members.data_key") == before
    assert (await own_record(members, room, member_id)).address == ADDRESS
    assert on_record(url, member_id) == []


async def test_use_is_written_once_a_day(
    members: "MembersAsyncStub", room: PrivateRoom, url: str, keyring: Path
) -> None:
    member_id = await registered(members, room)
    used = "SELECT used_time, xmin::text FROM members.member"
    first = sql(url, used)
    await members.SetConsent(
        pb.SetConsentRequest(member_id=member_id, purpose=pb.PURPOSE_SUPPORT, granted=True),
        metadata=room.bearer("members.write", subject=member_id),
    )
    async with store_of(url, keyring) as store:
        await store.exists(member_id)
        assert sql(url, used) == first
        store._clock = Ahead(1.1)
        await store.exists(member_id)
        second = sql(url, used)
        assert second[0][0] > first[0][0]
        assert await store.find(member_id) is not None
        assert sql(url, used) == second
