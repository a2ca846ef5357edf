"""Personal data is sealed before SQL, is a member's own alone, and every call to it is on record."""

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from isthmus.members.v1 import members_pb2 as pb
from isthmus.members.v1.members_pb2_grpc import MembersStub
from sqlalchemy import text
from sqlalchemy.exc import StatementError

from mesh.contract import load
from mesh.contract.model import DataClass
from mesh.database.engine import async_engine, execute, transact
from mesh.errors import AlreadyExists, DataLoss, InvalidArgument, MeshError, NotFound, PermissionDenied, Unauthenticated
from private_core.members.store import MEMBER
from private_core.storage.encrypted import Encrypted, only_envelopes
from security.audit.subjects import Subjects
from security.keys.errors import KekUnknown
from security.keys.keyring import Keyring
from tests.integration.members.conftest import (
    ADDRESS,
    NAME,
    PHONE,
    READ,
    REVEAL,
    WRITE,
    cell_bytes,
    graded,
    marks_in,
    own_record,
    registered,
    store_of,
)
from tests.integration.room import CLIENT, PrivateRoom, own, plain

if TYPE_CHECKING:
    from isthmus.members.v1.members_pb2_grpc import MembersAsyncStub


async def test_a_member_reads_their_own_record(members: "MembersAsyncStub", room: PrivateRoom) -> None:
    member_id = await registered(members, room, phone="138 1234 0099")
    record = await own_record(members, room, member_id)
    assert (record.phone, record.name, record.address) == (PHONE, NAME, ADDRESS)
    assert record.registered_time_us > 0


async def test_a_record_is_masked_unless_it_is_asked_for_in_clear(
    members: "MembersAsyncStub", room: PrivateRoom
) -> None:
    member_id = await registered(members, room)
    request = pb.GetMemberRequest(member_id=member_id)
    record = (await members.GetMember(request, metadata=room.bearer(READ, subject=member_id))).member
    assert (record.phone, record.name) == ("138****0099", "M*")
    assert not marks_in(record.SerializeToString())


async def test_others_see_a_record_for_a_purpose_that_the_member_consents_to_at_this_moment(
    members: "MembersAsyncStub", room: PrivateRoom, url: str
) -> None:
    member_id = await registered(members, room)
    await graded(room, CLIENT, pb.GRADE_SENSITIVE)

    async def reveal(purpose: pb.Purpose.ValueType) -> pb.Member:
        request = pb.RevealMemberRequest(member_id=member_id, purpose=purpose)
        return (await members.RevealMember(request, metadata=room.bearer(REVEAL, both=True))).member

    unproven = pb.RevealMemberRequest(member_id=member_id, purpose=pb.PURPOSE_ACCOUNT)
    with pytest.raises(Unauthenticated, match="STEP_UP_REQUIRED"):
        await members.RevealMember(unproven, metadata=room.bearer(REVEAL, subject=member_id))

    async def consent(granted: bool, subject: str = member_id) -> None:
        request = pb.SetConsentRequest(member_id=member_id, purpose=pb.PURPOSE_DELIVERY, granted=granted)
        await members.SetConsent(request, metadata=room.bearer(WRITE, subject=subject))

    with pytest.raises(PermissionDenied, match="PURPOSE_NOT_CONSENTED"):
        await reveal(pb.PURPOSE_DELIVERY)
    await consent(True)
    await consent(True)
    assert (await reveal(pb.PURPOSE_DELIVERY)).address == ADDRESS
    with pytest.raises(PermissionDenied, match="PURPOSE_NOT_CONSENTED"):
        await reveal(pb.PURPOSE_MARKETING)
    await consent(False)
    with pytest.raises(PermissionDenied, match="PURPOSE_NOT_CONSENTED"):
        await reveal(pb.PURPOSE_DELIVERY)
    with pytest.raises(PermissionDenied, match="NOT_YOUR_RECORD"):
        await consent(True, "another-member")
    with pytest.raises(InvalidArgument):
        await reveal(pb.PURPOSE_UNSPECIFIED)
    wanted = pb.ExportMemberRequest(member_id=member_id)
    with pytest.raises(Unauthenticated, match="STEP_UP_REQUIRED"):
        await members.ExportMember(wanted, metadata=room.bearer(REVEAL, subject=member_id))
    export = await members.ExportMember(wanted, metadata=room.bearer(REVEAL, subject=member_id, both=True))
    assert export.member.phone == PHONE
    assert [(each.purpose, each.granted) for each in export.consents] == [
        (pb.PURPOSE_DELIVERY, True),
        (pb.PURPOSE_DELIVERY, False),
    ]
    with pytest.raises(PermissionDenied, match="NOT_YOUR_RECORD"):
        await members.ExportMember(wanted, metadata=room.bearer(REVEAL, subject="another-member", both=True))
    with psycopg.connect(plain(url)) as connection:
        reasons = connection.execute(
            "SELECT reason FROM audit.record WHERE data_subject = %s AND method ~ 'RevealMember|SetConsent'"
            " AND result = 'OK' ORDER BY sequence",
            (member_id,),
        ).fetchall()
    assert [reason for (reason,) in reasons] == [
        "GRANTED_DELIVERY",
        "GRANTED_DELIVERY",
        "PURPOSE_DELIVERY SENSITIVE",
        "WITHDRAWN_DELIVERY",
    ]


async def test_nobody_reads_anothers_record(members: "MembersAsyncStub", room: PrivateRoom) -> None:
    member_id = await registered(members, room)
    request = pb.GetMemberRequest(member_id=member_id)
    with pytest.raises(PermissionDenied, match="NOT_YOUR_RECORD"):
        await members.GetMember(request, metadata=room.bearer(READ, subject="another-member"))
    with pytest.raises(PermissionDenied, match="MEMBER_REQUIRED"):
        await members.GetMember(request, metadata=room.bearer(READ))
    with pytest.raises(PermissionDenied, match="SCOPE_MISSING"):
        await members.GetMember(request, metadata=room.bearer(WRITE, subject=member_id))
    with pytest.raises(Unauthenticated):
        await members.GetMember(request)
    with pytest.raises(NotFound, match="MEMBER_UNKNOWN"):
        await own_record(members, room, "not-registered")


async def test_a_second_registration_is_refused_unnamed(members: "MembersAsyncStub", room: PrivateRoom) -> None:
    first = await registered(members, room)
    with pytest.raises(AlreadyExists) as refused:
        await registered(members, room, "key-00000002", phone="13812340099", name="Somebody Else")
    assert refused.value.reason == "MEMBER_EXISTS"
    said = refused.value.to_status().SerializeToString()
    for secret in (first, PHONE, PHONE[3:], NAME):
        assert secret.encode() not in said


async def test_of_parallel_registrations_of_one_phone_one_holds(members: "MembersAsyncStub", room: PrivateRoom) -> None:
    calls = (registered(members, room, f"key-1000000{number}") for number in range(8))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(outcome, str) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, AlreadyExists) for outcome in outcomes) == 7


async def test_a_repeated_registration_gives_the_first_answer(members: "MembersAsyncStub", room: PrivateRoom) -> None:
    first = await registered(members, room)
    assert await registered(members, room) == first
    with pytest.raises(AlreadyExists, match="IDEMPOTENCY_KEY_REUSED"):
        await registered(members, room, phone="+8613812340100")


@pytest.mark.parametrize("phone", ["12345", "not a number", "+86138123400999", "+999 123 456 789"])
async def test_a_bad_phone_is_refused_unsaid(members: "MembersAsyncStub", room: PrivateRoom, phone: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await registered(members, room, phone=phone)
    assert phone.encode() not in refused.value.to_status().SerializeToString()


async def test_no_column_and_no_file_holds_plaintext(
    members: "MembersAsyncStub", room: PrivateRoom, url: str, keyring: Path
) -> None:
    member_id = await registered(members, room)
    await own_record(members, room, member_id)
    with psycopg.connect(plain(url), autocommit=True) as connection:
        connection.execute("CHECKPOINT")
        for table in ("member", "data_key", "idempotency"):
            rows = connection.execute(f"SELECT * FROM members.{table}").fetchall()
            assert rows
            cells = b"\n".join(cell_bytes(cell) for row in rows for cell in row)
            assert not marks_in(cells)
        folder = connection.execute("SHOW data_directory").fetchone()
        assert folder is not None
        files = [path for path in Path(folder[0]).rglob("*") if path.is_file()]
        assert any("pg_wal" in str(path) for path in files)
        seen = False
        for path in files:
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                # PostgreSQL removes files as it works.
                continue
            assert not marks_in(content), path
            seen = seen or member_id.encode() in content
        # What is not encrypted was found, so the search looks where the rows are.
        assert seen


@pytest.mark.parametrize("mistaken", [PHONE, PHONE.removeprefix("+86"), ADDRESS])
async def test_what_is_no_id_is_on_record_as_a_keyed_hash_alone(
    members: "MembersAsyncStub", room: PrivateRoom, url: str, mistaken: str
) -> None:
    for token in (room.bearer(READ), room.bearer(READ, subject="member-1"), ()):
        with pytest.raises(MeshError):
            await members.GetMember(pb.GetMemberRequest(member_id=mistaken), metadata=token)
    named = Subjects.below(room.home).named(mistaken)
    assert mistaken not in named
    with psycopg.connect(plain(url)) as connection:
        found = connection.execute("SELECT count(*) FROM audit.record WHERE data_subject = %s", (named,)).fetchone()
        leaked = connection.execute("SELECT count(*) FROM audit.record WHERE data_subject = %s", (mistaken,)).fetchone()
    assert (found, leaked) == ((3,), (0,))


async def test_no_sensitive_column_is_left_unencrypted() -> None:
    fields = load().fields("isthmus.members.v1.Member").values()
    sensitive = {field.name for field in fields if field.data_class >= DataClass.PERSONAL}
    encrypted = {column.name for column in MEMBER.columns if isinstance(column.type, Encrypted)}
    assert sensitive == encrypted


async def test_no_statement_binds_plaintext_where_an_encrypted_column_is(members: "MembersAsyncStub", url: str) -> None:
    statement = only_envelopes(
        text("UPDATE members.member SET phone = :phone, name = :name, address = :address"), MEMBER
    )
    values = {"phone": None, "name": None, "address": ADDRESS}
    engine = async_engine(own(url, "members"))
    with pytest.raises(TypeError, match="envelopes only"):
        await execute(engine, statement, values)
    with pytest.raises(StatementError, match="envelopes only") as refused:
        await transact(engine, lambda connection: connection.execute(statement, values))
    await engine.dispose()
    assert ADDRESS not in str(refused.value)


async def test_a_value_moved_to_another_row_or_column_does_not_open(
    members: "MembersAsyncStub", room: PrivateRoom, url: str
) -> None:
    mine = await registered(members, room)
    theirs = await registered(members, room, "key-00000002", phone="+8613812340100", name="Another Person")
    with psycopg.connect(plain(url)) as connection:
        connection.execute(
            "UPDATE members.member SET name = (SELECT name FROM members.member WHERE member_id = %s)"
            " WHERE member_id = %s",
            (theirs, mine),
        )
        connection.execute("UPDATE members.member SET address = name WHERE member_id = %s", (theirs,))
    for member_id in (mine, theirs):
        with pytest.raises(DataLoss, match="ENVELOPE_REJECTED"):
            await own_record(members, room, member_id)


async def test_a_swapped_data_key_does_not_unwrap(members: "MembersAsyncStub", room: PrivateRoom, url: str) -> None:
    mine = await registered(members, room)
    theirs = await registered(members, room, "key-00000002", phone="+8613812340100")
    with psycopg.connect(plain(url)) as connection:
        connection.execute("DELETE FROM members.data_key WHERE subject = %s", (mine,))
        connection.execute("UPDATE members.data_key SET subject = %s WHERE subject = %s", (mine, theirs))
    with pytest.raises(DataLoss, match="ENVELOPE_REJECTED"):
        await own_record(members, room, mine)


async def test_without_its_data_key_a_record_is_gone(members: "MembersAsyncStub", room: PrivateRoom, url: str) -> None:
    member_id = await registered(members, room)
    with psycopg.connect(plain(url)) as connection:
        connection.execute("DELETE FROM members.data_key WHERE subject = %s", (member_id,))
    with pytest.raises(NotFound):
        await own_record(members, room, member_id)


async def test_records_outlive_a_new_kek_and_a_foreign_keyring_stops_the_start(
    members: "MembersAsyncStub", room: PrivateRoom, url: str, keyring: Path, tmp_path: Path
) -> None:
    member_id = await registered(members, room)
    ring = Keyring.open(keyring)
    await ring.rotate((await ring.held())[-1].version)
    async with store_of(url, keyring) as store:
        await store.require_keks(await Keyring.open(keyring).held())
        member = await store.find(member_id)
        assert member is not None
        assert member.particulars.phone == PHONE
        with pytest.raises(KekUnknown):
            await store.require_keks(await Keyring.open(tmp_path / "other" / "keyring.json").held())


async def test_orders_learns_whether_and_the_operator_how_many(members: "MembersAsyncStub", room: PrivateRoom) -> None:
    member_id = await registered(members, room)
    async with room.caller("orders") as channel:
        check = MembersStub(channel).CheckMember
        for asked, answer in ((member_id, True), ("nobody", False)):
            found = await check(
                pb.CheckMemberRequest(member_id=asked), metadata=room.bearer("orders.write", presenter="orders")
            )
            assert found.registered is answer
    async with room.caller("operator") as channel:
        assert (await MembersStub(channel).CountMembers(pb.CountMembersRequest())).members == 1


async def test_every_call_is_on_record(members: "MembersAsyncStub", room: PrivateRoom, url: str) -> None:
    member_id = await registered(members, room)
    await own_record(members, room, member_id)
    request = pb.GetMemberRequest(member_id=member_id)
    with pytest.raises(PermissionDenied):
        await members.GetMember(request, metadata=room.bearer(READ, subject="another-member"))
    async with room.caller("orders") as channel:
        with pytest.raises(PermissionDenied, match="CALLER_NOT_ALLOWED"):
            await MembersStub(channel).GetMember(request, metadata=room.bearer(READ, subject=member_id))
    with pytest.raises(PermissionDenied, match="SCOPE_MISSING"):
        await members.GetMember(request, metadata=room.bearer(WRITE, subject=member_id))
    with pytest.raises(Unauthenticated):
        await members.GetMember(request, metadata=(("authorization", "Bearer bad"),))
    with psycopg.connect(plain(url)) as connection:
        records = connection.execute(
            "SELECT split_part(peer, '/', 5), token_subject, data_subject, decision, result, reason, length(trace_id)"
            " FROM audit.record ORDER BY sequence DESC LIMIT 6"
        ).fetchall()[::-1]
        everything = json.dumps(connection.execute("SELECT row_to_json(r) FROM audit.record r").fetchall())
    gateway = "core-gateway"
    assert records == [
        (gateway, "storefront", "", 1, "OK", "", 32),
        (gateway, member_id, member_id, 1, "OK", "PURPOSE_ACCOUNT SENSITIVE", 32),
        (gateway, "another-member", member_id, 2, "PERMISSION_DENIED", "NOT_YOUR_RECORD", 32),
        ("orders", "", member_id, 2, "PERMISSION_DENIED", "CALLER_NOT_ALLOWED", 32),
        (gateway, member_id, member_id, 2, "PERMISSION_DENIED", "SCOPE_MISSING", 32),
        (gateway, "", member_id, 2, "UNAUTHENTICATED", "TOKEN_MALFORMED", 32),
    ]
    assert not marks_in(everything.encode())


def test_particulars_show_in_no_repr() -> None:
    from private_core.members.domain import Member, Particulars

    shown = repr(Member("m-1", Particulars.of(PHONE, NAME, ADDRESS), 1))
    assert not marks_in(shown.encode())
