"""The members room on a real database, called as the core gateway would."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from isthmus.members.v1 import members_pb2 as pb
from isthmus.members.v1 import members_pb2_grpc
from isthmus.members.v1.members_pb2_grpc import GradesStub, MembersStub

from mesh.clock import SystemClock
from mesh.database.engine import async_engine
from mesh.database.migrate import Owner, migrate
from mesh.errors import Unavailable
from private_core.members import store as members_store
from private_core.members.grades import Grades
from private_core.members.identity import IdentityGraph
from private_core.members.rotation import KeyRotation
from private_core.members.service import DataKeysService, GradesService, IdentitiesService, MembersService
from private_core.members.store import MemberStore
from security.audit import postgres as audit_postgres
from security.audit.postgres import PostgresAuditSink
from security.keys.blind_index import BlindIndex
from security.keys.keyring import Keyring
from security.keys.vault import Vault
from tests.integration.room import PrivateRoom, own, plain

if TYPE_CHECKING:
    from isthmus.members.v1.members_pb2_grpc import MembersAsyncStub

# No other test may write these: one PostgreSQL serves them all, and its files are searched for them.
PHONE, NAME, ADDRESS = "+8613812340099", "Marisol Vandenbroucke", "7 Quillfeather Lane, Shenzhen"
WRITE, READ, REVEAL = "members.write", "members.read", "members.reveal"


@pytest.fixture(scope="module")
def url(postgres_url: str) -> str:
    owners = [Owner.beside(members_store.__file__), Owner.beside(audit_postgres.__file__)]
    migrate(postgres_url, owners)
    with psycopg.connect(plain(postgres_url)) as connection:
        connection.execute("INSERT INTO members.residence (region) VALUES ('CN')")
    return postgres_url


@pytest.fixture
def room(tmp_path: Path) -> PrivateRoom:
    return PrivateRoom(tmp_path, "members")


@pytest.fixture
def keyring(url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for the whole database."""
    return tmp_path_factory.getbasetemp() / url.rpartition("/")[2].partition("?")[0] / "keyring.json"


@asynccontextmanager
async def store_of(url: str, keyring: Path) -> AsyncIterator[MemberStore]:
    engine = async_engine(own(url, "members"))
    ring = Keyring.open(keyring)
    try:
        yield MemberStore(engine, Vault(ring, "isthmus"), BlindIndex(await ring.index_key("members.phone")), "CN")
    finally:
        await engine.dispose()


def adder(services: tuple[MembersService, IdentitiesService, DataKeysService, GradesService], server: Any) -> None:
    members, identities, keys, grades = services
    members_pb2_grpc.add_GradesServicer_to_server(grades, server)
    members_pb2_grpc.add_IdentitiesServicer_to_server(identities, server)
    members_pb2_grpc.add_MembersServicer_to_server(members, server)
    members_pb2_grpc.add_DataKeysServicer_to_server(keys, server)


class ErasedAccounts:
    """In place of the authorization server: whose account was erased, and a server that may be away."""

    def __init__(self) -> None:
        self.erased: list[str] = []
        self.away = False

    async def erase(self, member_id: str) -> None:
        if self.away:
            raise Unavailable("AWAY", "the authorization server does not answer")
        self.erased.append(member_id)


@pytest.fixture
def accounts() -> ErasedAccounts:
    return ErasedAccounts()


@pytest.fixture
async def members(
    url: str, room: PrivateRoom, keyring: Path, accounts: "ErasedAccounts"
) -> AsyncIterator["MembersAsyncStub"]:
    """A stub with the core gateway's certificate; every test begins with no member."""
    with psycopg.connect(plain(url)) as connection:
        connection.execute(
            "TRUNCATE members.member, members.data_key, members.idempotency, members.consent, members.identifier,"
            " members.merge, members.grade"
        )
    sink = PostgresAuditSink(async_engine(own(url, "members")))
    await sink.start()
    async with store_of(url, keyring) as store:
        bodies = BlindIndex(await Keyring.open(keyring).index_key("members.idempotency"))
        ring = Keyring.open(keyring)
        identifiers = BlindIndex(await ring.index_key("members.identifier"))
        phones = BlindIndex(await ring.index_key("members.phone"))
        graph = IdentityGraph(store._engine, identifiers, phones, "CN")
        grades = Grades(store._engine, SystemClock())
        service = MembersService(store, graph, grades, bodies, "CN", SystemClock())
        identities = IdentitiesService(graph, SystemClock())
        rotation = KeyRotation(store._engine, ring, Vault(ring, "isthmus"), settled_s=0)
        keys = DataKeysService(store, rotation, accounts, SystemClock())
        async with (
            room.serving(adder, (service, identities, keys, GradesService(grades)), sink),
            room.caller() as channel,
        ):
            yield MembersStub(channel)
    await sink.stop(2.0)


def registration(key: str = "key-00000001", **changes: str) -> pb.RegisterMemberRequest:
    return pb.RegisterMemberRequest(
        **{"idempotency_key": key, "phone": PHONE, "name": NAME, "address": ADDRESS} | changes
    )


async def registered(members: "MembersAsyncStub", room: PrivateRoom, key: str = "key-00000001", **changes: str) -> str:
    answer = await members.RegisterMember(registration(key, **changes), metadata=room.bearer(WRITE))
    return answer.member_id


async def graded(room: PrivateRoom, subject: str, grade: "pb.Grade.ValueType", days: int = 30) -> int:
    """Given by the operator. Until when, microseconds since the epoch."""
    async with room.caller("operator") as channel:
        request = pb.SetGradeRequest(subject=subject, grade=grade, days=days)
        return (await GradesStub(channel).SetGrade(request)).ends_time_us


async def own_record(members: "MembersAsyncStub", room: PrivateRoom, member_id: str) -> pb.Member:
    """In clear."""
    request = pb.RevealMemberRequest(member_id=member_id, purpose=pb.PURPOSE_ACCOUNT)
    return (await members.RevealMember(request, metadata=room.bearer(REVEAL, subject=member_id, both=True))).member


def cell_bytes(cell: Any) -> bytes:
    return bytes(cell) if isinstance(cell, bytes | memoryview) else str(cell).encode()


def marks_in(data: bytes) -> list[str]:
    """Which of the marked values are in `data`, as text or as SQL shows bytes."""
    marks = (PHONE[3:], NAME, NAME.split()[1], ADDRESS, "Quillfeather")
    return [mark for mark in marks if mark.encode() in data or mark.encode().hex().encode() in data]
