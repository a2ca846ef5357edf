"""What is personal about a member stays in the region of its store, which takes and serves no other region's."""

import asyncio
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg.errors import ForeignKeyViolation, InsufficientPrivilege

from mesh.database.engine import async_engine
from mesh.errors import FailedPrecondition
from private_core.members.residence import require_region
from tests.integration.members.conftest import WRITE, registered, registration
from tests.integration.room import PrivateRoom, own, plain

if TYPE_CHECKING:
    from isthmus.members.v1.members_pb2_grpc import MembersAsyncStub


async def test_a_member_of_another_region_is_refused_by_the_room_and_by_the_database(
    members: "MembersAsyncStub", room: PrivateRoom, url: str
) -> None:
    with pytest.raises(FailedPrecondition, match="REGION_OTHER"):
        await members.RegisterMember(registration(region="DE"), metadata=room.bearer(WRITE))
    stated = await registered(members, room, region="CN")
    silent = await registered(members, room, "key-00000002", phone="+8613812340100")
    with psycopg.connect(plain(url)) as connection:
        rows = connection.execute("SELECT member_id, region FROM members.member").fetchall()
        assert dict(rows) == {stated: "CN", silent: "CN"}
        with pytest.raises(ForeignKeyViolation):
            connection.execute("UPDATE members.member SET region = 'DE'")


async def test_a_copy_of_the_store_is_not_served_in_another_region(url: str) -> None:
    """A restored backup says whose it is, and the room's role cannot say it anew."""
    engine = async_engine(own(url, "members"), pool_size=2)
    await require_region(engine, "CN")
    with pytest.raises(FailedPrecondition, match="REGION_OTHER"):
        await require_region(engine, "DE")
    with psycopg.connect(plain(own(url, "members"))) as connection, pytest.raises(InsufficientPrivilege):
        connection.execute("UPDATE members.residence SET region = 'DE'")
    await engine.dispose()


async def test_of_two_regions_that_come_first_one_has_the_store(url: str) -> None:
    with psycopg.connect(plain(url)) as connection:
        connection.execute("TRUNCATE members.residence CASCADE")
    engine = async_engine(own(url, "members"), pool_size=2)
    came = await asyncio.gather(*(require_region(engine, region) for region in ("CN", "DE")), return_exceptions=True)
    await engine.dispose()
    with psycopg.connect(plain(url)) as connection:
        ((region,),) = connection.execute("SELECT region FROM members.residence").fetchall()
        connection.execute("TRUNCATE members.residence CASCADE")
        connection.execute("INSERT INTO members.residence (region) VALUES ('CN')")
    refused = [each for each in came if each is not None]
    assert [type(each) for each in refused] == [FailedPrecondition]
    assert came[("CN", "DE").index(region)] is None
