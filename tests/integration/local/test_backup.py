"""A database that is backed up all the time: lost with its place, it is back in another, with every answered commit."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from signal import SIGKILL
from typing import Any

import psycopg
import pytest
import pytest_asyncio

from chaos.drill.custody import heal_leftovers
from chaos.drill.target import Target
from deploy.local import backup, copies, postgres
from deploy.local.errors import LauncherError
from deploy.local.mesh import LocalMesh
from deploy.local.postgres import NODES
from deploy.local.restore import restore
from deploy.local.settings import Home, LauncherSettings
from tests.integration.control.world import eventually
from tests.integration.local.killed_runner import killed
from tests.ports import free_port_base

pytestmark = pytest.mark.asyncio(loop_scope="module")
WRITERS = 3
REGION = "CN"
WAITS = "SELECT current_setting('synchronous_standby_names') LIKE '%\"backup\"%'"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It has what a launcher that was killed in the middle of a copy leaves behind."""
    directory = tmp_path_factory.mktemp("elsewhere") / "backup"
    (directory / "20261122T000000Z.partial" / copies.BASE).mkdir(parents=True)
    (directory / f"{copies.NEWEST}.partial").symlink_to("20261122T000000Z")
    return directory


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory, directory: Path) -> AsyncIterator[LocalMesh]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ISTHMUS_BACKUP", str(directory))
        async with LocalMesh(tmp_path_factory.mktemp("first"), free_port_base(), only=("backup",)) as mesh:
            yield mesh


async def waits(mesh: LocalMesh) -> bool:
    async with await postgres.connect(mesh.home) as connection:
        return bool((await (await connection.execute(WAITS)).fetchone() or (False,))[0])


async def rows(home: Home, directory: Path, until: datetime | None = None) -> set[tuple[int, int]]:
    """What a home that was restored from the backup has."""
    done = await restore(home, directory, until=until)
    assert done.copy in {copies.begun(one) for one in copies.complete(directory)}
    server = await asyncio.create_subprocess_exec(*postgres.command(home), stderr=asyncio.subprocess.DEVNULL)
    try:

        async def answers() -> bool:
            try:
                await postgres.ping(home)
            except psycopg.Error:
                return False
            return True

        await eventually(answers, "the restored database answers")
        async with await postgres.connect(home) as connection:
            found = await (await connection.execute("SELECT writer, number FROM payment")).fetchall()
            return {(int(writer), int(number)) for writer, number in found}
    finally:
        server.send_signal(backup.STOP_SIGNAL)
        await server.wait()


async def test_every_answered_commit_is_in_the_second_place(mesh: LocalMesh, directory: Path, tmp_path: Path) -> None:
    await eventually(lambda: waits(mesh), "commits wait for the backup")
    async with await postgres.connect(mesh.home) as connection:
        await connection.execute("CREATE TABLE payment (writer int, number int)")
        await connection.execute("INSERT INTO payment VALUES (-1, 1)")
        (moment,) = await (await connection.execute("SELECT clock_timestamp()")).fetchone() or (None,)
        await connection.execute("INSERT INTO payment VALUES (-1, 2)")
    answered: set[tuple[int, int]] = set()
    enough = asyncio.Event()

    async def write(writer: int) -> None:
        async with await postgres.connect(mesh.home) as connection:
            for number in range(100_000):
                await connection.execute("INSERT INTO payment VALUES (%s, %s)", [writer, number])
                answered.add((writer, number))
                if len(answered) > 200:
                    enough.set()

    writing = [asyncio.create_task(write(n)) for n in range(WRITERS)]
    await asyncio.wait_for(enough.wait(), 30)
    # The place is gone in the middle of it: nobody starts it again.
    mesh.process(NODES[0]).wanted.clear()
    mesh.kill(NODES[0], SIGKILL)
    ended = await asyncio.gather(*writing, return_exceptions=True)
    assert all(isinstance(one, psycopg.Error) for one in ended)

    second = await rows(Home(tmp_path / "second"), directory)
    assert not answered - second, "answered, and not in the backup"
    # At most what was under way is there without its answer.
    assert len(second - answered - {(-1, 1), (-1, 2)}) <= WRITERS
    assert await rows(Home(tmp_path / "third"), directory, moment) == {(-1, 1)}


async def test_copies_are_taken_beside_the_receiver_and_commits_wait_for_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "backup"
    monkeypatch.setenv("ISTHMUS_BACKUP", str(directory))
    monkeypatch.setenv("ISTHMUS_BACKUP_EVERY_H", str(1 / 3600))
    async with LocalMesh(tmp_path / "home", free_port_base(), only=("backup",)) as mesh:
        await eventually(lambda: waits(mesh), "commits wait for the backup")
        pid, log = mesh.process("backup").pid, (directory / copies.NEWEST).resolve()
        first, newest, answered = copies.complete(directory)[0], None, set[tuple[int, int]]()
        oldest = min((log / copies.WAL).iterdir(), key=lambda one: one.name)
        async with await postgres.connect(mesh.home) as connection:
            await connection.execute("CREATE TABLE payment (writer int, number int)")
            async with asyncio.timeout(120):
                # Its part of the log goes behind it.
                while first.exists() or oldest.exists():
                    await connection.execute("INSERT INTO payment VALUES (0, %s)", [len(answered)])
                    answered.add((0, len(answered)))
                    if copies.complete(directory)[-1] != newest:
                        newest = copies.complete(directory)[-1]
                        # From here on the next copy does not need what is written so far.
                        await connection.execute("SELECT pg_switch_wal()")
                    assert await streaming(connection) == ["sync"]
        assert mesh.process("backup").pid == pid
    assert (directory / copies.NEWEST).resolve() == log
    kept = copies.complete(directory)
    assert len(kept) >= copies.COPIES_MAX
    assert await rows(Home(tmp_path / "second"), directory) == answered
    # The copy before works as well.
    assert await rows(Home(tmp_path / "third"), directory, copies.ended(kept[-1])) <= answered


async def test_a_database_that_a_killed_runner_took_away_is_restored_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISTHMUS_BACKUP", str(tmp_path / "backup"))
    monkeypatch.setenv("ISTHMUS_HOME", str(tmp_path / "home"))
    async with LocalMesh(tmp_path / "home", free_port_base(), only=("backup",)) as mesh:
        await eventually(lambda: waits(mesh), "commits wait for the backup")
        async with await postgres.connect(mesh.home) as connection:
            await connection.execute("CREATE TABLE payment (number int)")
            await connection.execute("INSERT INTO payment VALUES (7)")
        fault = {"do": "lose-data", "names": [NODES[0]], "for_s": 500.0}
        radius = {"workloads": ["postgres"], "whole": ["postgres"], "processes_max": 1}
        await killed(mesh.home.root, radius, [("break_processes", fault)])
        assert not mesh.home.data(NODES[0]).exists()
        assert await asyncio.to_thread(heal_leftovers, Target(LauncherSettings())) == [f"{NODES[0]}: lose-data"]
        await mesh.wait_ready(NODES[0])
        async with await postgres.connect(mesh.home) as connection:
            assert await (await connection.execute("SELECT number FROM payment")).fetchall() == [(7,)]


async def streaming(connection: psycopg.AsyncConnection[Any]) -> list[str]:
    """How those stand to a commit whom one waits for."""
    asked = "SELECT sync_state FROM pg_stat_replication WHERE application_name = 'backup'"
    return [state for (state,) in await (await connection.execute(asked)).fetchall()]


async def test_a_backup_stays_in_its_region(directory: Path, tmp_path: Path) -> None:
    assert (directory / copies.REGION).read_text() == f"{REGION}\n"
    with pytest.raises(LauncherError, match="holds backups of CN, and this mesh runs for SG"):
        await restore(Home(tmp_path / "home"), directory, region="SG")
    with pytest.raises(LauncherError, match="holds backups of CN"):
        backup.check(LauncherSettings(backup=directory, region="SG"))
    backup.check(LauncherSettings(backup=directory, region=REGION))
    assert not (tmp_path / "home").exists()


async def test_a_database_is_never_written_over(mesh: LocalMesh, directory: Path) -> None:
    with pytest.raises(LauncherError, match="There is a database"):
        await restore(mesh.home, directory)


async def test_a_moment_before_the_first_copy_is_refused(directory: Path, tmp_path: Path) -> None:
    first = copies.begun(copies.complete(directory)[0])
    with pytest.raises(LauncherError, match="no backup"):
        await restore(Home(tmp_path), directory, until=first)
    with pytest.raises(LauncherError, match="no backup"):
        await restore(Home(tmp_path), tmp_path)


async def test_a_damaged_backup_leaves_nothing_behind(directory: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    await (await asyncio.create_subprocess_exec("cp", "--archive", str(directory), str(copy))).wait()
    (copies.complete(copy)[-1] / "global" / "pg_control").write_bytes(b"")
    with pytest.raises(LauncherError, match="pg_control is not what"):
        await restore(Home(tmp_path / "home"), copy)
    assert not (tmp_path / "home" / "data" / NODES[0]).exists()


async def test_somebody_else_s_database_is_not_ours_to_back_up() -> None:
    settings = LauncherSettings(backup=Path("/backup"), database_url="postgresql+psycopg://somewhere/else")
    with pytest.raises(LauncherError, match="ISTHMUS_BACKUP"):
        backup.check(settings)
