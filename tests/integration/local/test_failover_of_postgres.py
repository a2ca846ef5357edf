"""Two PostgreSQL nodes: one dies, the other takes over, and every commit that was answered is there once."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL, SIGSTOP

import pytest
import pytest_asyncio
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

from deploy.local import replication
from deploy.local.errors import LauncherError
from deploy.local.mesh import LocalMesh
from deploy.local.postgres import NODES
from deploy.local.replication import Roles
from deploy.local.settings import Home
from mesh.database.engine import Database, async_engine, execute
from mesh.errors import MeshError
from tests.integration.control.world import eventually
from tests.ports import free_port_base

pytestmark = pytest.mark.asyncio(loop_scope="module")
WRITERS = 4
# Rows of the tests before.
EARLIER: set[tuple[int, int]] = set()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalMesh]:
    home = tmp_path_factory.mktemp("pair")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ISTHMUS_DATABASE_STANDBY", "true")
        async with LocalMesh(home, free_port_base(), only=("postgres",)) as mesh:
            yield mesh


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(mesh: LocalMesh) -> AsyncIterator[Database]:
    """As the rooms come: by a role that may no more than it needs, on whichever node is the primary."""
    url = mesh.database_url.replace("/isthmus?", "/postgres?")
    owner = async_engine(url, "test", pool_size=1)
    async with owner.begin() as connection:
        await connection.execute(text("CREATE TABLE payment (writer int, number int)"))
        await connection.execute(text("CREATE ROLE isthmus_payments LOGIN"))
        await connection.execute(text("GRANT SELECT, INSERT ON payment TO isthmus_payments"))
    await owner.dispose()
    role = make_url(url).set(username="isthmus_payments").render_as_string(hide_password=False)
    engine = async_engine(role, "test", pool_size=WRITERS)
    yield engine
    await engine.dispose()


class Writers:
    """Each writes one number after the other, and keeps those that were answered."""

    def __init__(self, engine: Database) -> None:
        self._engine = engine
        self.answered: list[tuple[int, int]] = []
        self.open: set[tuple[int, int]] = set()

    async def write(self, writer: int, over: asyncio.Event) -> None:
        insert = text("INSERT INTO payment VALUES (:writer, :number)")
        number = max((number for _, number in EARLIER), default=0)
        while not over.is_set():
            number += 1
            row = (writer, number)
            self.open.add(row)
            with suppress(MeshError, DBAPIError, TimeoutError):
                async with asyncio.timeout(8), self._engine.begin() as connection:
                    await connection.execute(insert, {"writer": writer, "number": number})
                self.answered.append(row)
                self.open.discard(row)


async def synchronous(mesh: LocalMesh) -> bool:
    return replication.read(mesh.home).synchronous


@pytest.mark.parametrize("number", [SIGKILL, SIGSTOP])
async def test_the_copy_takes_over_and_no_answered_commit_is_lost(
    mesh: LocalMesh, engine: Database, number: int
) -> None:
    await eventually(lambda: synchronous(mesh), "commits wait for the copy")
    before, writers, over = replication.read(mesh.home), Writers(engine), asyncio.Event()
    writing = [asyncio.create_task(writers.write(n, over)) for n in range(WRITERS)]
    try:
        await eventually(lambda: many(writers, 50), "rows are written")
        if number == SIGKILL:
            # A machine that is gone: nobody starts it again.
            mesh.process(before.primary).wanted.clear()
        mesh.kill(before.primary, number)
        await eventually(lambda: primary_is(mesh, before.standby), "the copy takes over")
        written = len(writers.answered)
        await eventually(lambda: many(writers, written + 50), "writes go on")
        await mesh.resume(before.primary)
        await eventually(lambda: synchronous(mesh), "the old primary is a copy of the new one")
    finally:
        over.set()
        await asyncio.gather(*writing)
    found = Counter(await rows(engine))
    asked = set(writers.answered) | writers.open
    assert not set(writers.answered) - found.keys(), "answered, and not there"
    assert not found.keys() - asked - EARLIER, "there, and never asked for"
    assert max(found.values()) == 1
    EARLIER.update(found)


async def test_without_its_copy_the_primary_goes_on_alone(mesh: LocalMesh, engine: Database) -> None:
    await eventually(lambda: synchronous(mesh), "commits wait for the copy")
    copy = replication.read(mesh.home).standby
    await mesh.suspend(copy)

    async def alone() -> bool:
        return not await synchronous(mesh)

    await eventually(alone, "nobody waits for the copy any more")
    await execute(engine, text("INSERT INTO payment VALUES (-1, 1)"))
    await mesh.resume(copy)
    await eventually(lambda: synchronous(mesh), "commits wait for the copy again")


async def test_one_node_alone_does_not_start_where_the_other_has_taken_over(tmp_path: Path) -> None:
    replication.write(Home(tmp_path), Roles(NODES[1]))
    with pytest.raises(LauncherError, match=NODES[1]):
        await replication.prepare_alone(Home(tmp_path))


async def many(writers: Writers, number: int) -> bool:
    return len(writers.answered) >= number


async def primary_is(mesh: LocalMesh, node: str) -> bool:
    return replication.read(mesh.home).primary == node


async def rows(engine: Database) -> list[tuple[int, int]]:
    return [(one.writer, one.number) for one in await execute(engine, text("SELECT writer, number FROM payment"))]
