"""Faults for which a process is started anew: with a wrong clock, or on a disk that is full."""

import asyncio
import errno
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deploy.local import small_disk
from deploy.local.errors import LauncherError
from deploy.local.faults import Faults
from deploy.local.leases import BadFault
from deploy.local.settings import Home
from deploy.local.supervisor import State, Supervisor
from deploy.local.table import Row
from deploy.local.topology import Process
from tests.unit.local.conftest import asked, file_probe

DEADLINE_S = 60.0
# Tells its clock at each start. A module, as the mesh's own processes are.
CLOCK = "import pathlib, signal, sys, time; pathlib.Path('told').write_text(repr(time.time())); signal.pause()"
needs_disks = pytest.mark.skipif(not small_disk.possible(), reason="takes root, mkfs.ext4 and loop devices")


@pytest.fixture
async def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Supervisor]:
    (tmp_path / "tells_its_clock.py").write_text(CLOCK.replace("'told'", repr(str(tmp_path / "told"))))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    command = (sys.executable, "-m", "tells_its_clock")
    rows = [
        Row(Process("one", "public", "edge", "one"), command, grace_s=5.0, ready=file_probe(tmp_path / "told")),
        Row(Process("other", "public", "edge", "other"), ("sleep", "600"), grace_s=5.0),
    ]
    supervisor = Supervisor(Home(tmp_path), rows)
    await supervisor.start()
    yield supervisor
    await supervisor.stop()


async def told(home: Path) -> float:
    """By how many seconds the clock of the process that starts now is ahead."""
    async with asyncio.timeout(DEADLINE_S):
        while not (home / "told").exists() or not (said := (home / "told").read_text()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    (home / "told").unlink()
    return float(said) - time.time()


@pytest.mark.parametrize("seconds", [3600, -3600])
async def test_a_clock_is_off_until_it_is_healed(faults: Faults, tmp_path: Path, seconds: int) -> None:
    assert abs(await told(tmp_path)) < DEADLINE_S
    await faults.handle(asked("skew-clock", seconds=seconds))
    assert abs(await told(tmp_path) - seconds) < DEADLINE_S
    await faults.handle({"do": "heal", "lease": "key"})
    assert abs(await told(tmp_path)) < DEADLINE_S


@pytest.mark.parametrize("seconds", [0, 1e9, True, None, "much", float("nan")])
async def test_a_clock_that_could_not_be_is_refused(faults: Faults, seconds: object) -> None:
    with pytest.raises(BadFault, match="seconds"):
        await faults.handle(asked("skew-clock", seconds=seconds))


async def test_the_clock_of_what_is_not_ours_is_left_alone(faults: Faults) -> None:
    with pytest.raises(BadFault, match="own processes"):
        await faults.handle(asked("skew-clock", seconds=60) | {"process": "other"})


@needs_disks
async def test_a_full_disk_refuses_what_is_new_and_gives_back_what_it_kept(
    supervisor: Supervisor, faults: Faults, tmp_path: Path
) -> None:
    data = tmp_path / "data" / "one"
    data.mkdir(parents=True, mode=0o700)
    (data / "before").write_bytes(b"kept" * 1000)
    await faults.handle(asked("fill-disk", free_bytes=0))
    assert (data / "before").read_bytes() == b"kept" * 1000
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        (data / "new").write_bytes(bytes(1 << 20))
    (data / "before").write_bytes(b"during")
    await faults.handle({"do": "heal"})
    assert (data / "before").read_bytes() == b"during"
    assert not data.is_mount()
    assert data.stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in data.parent.iterdir()) == ["one"]
    async with asyncio.timeout(DEADLINE_S):
        while supervisor.children["one"].state is not State.READY:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@needs_disks
async def test_a_launcher_that_was_killed_leaves_a_disk_that_the_next_one_takes_away(tmp_path: Path) -> None:
    data = tmp_path / "data" / "one"
    data.mkdir(parents=True)
    (data / "before").write_bytes(b"kept")
    small_disk.put(data, 1 << 20)
    assert data.is_mount()
    assert small_disk.recover(Home(tmp_path)) == ["one"]
    assert ((data / "before").read_bytes(), data.is_mount()) == (b"kept", False)
    assert small_disk.recover(Home(tmp_path)) == []


@needs_disks
def test_a_disk_that_cannot_be_made_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "one"
    data.mkdir()
    (data / "before").write_bytes(b"kept")
    monkeypatch.setattr(small_disk, "BYTES_MIN", 0)
    with pytest.raises(LauncherError, match="No small disk"):
        small_disk.put(data, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one"]
    assert (data / "before").read_bytes() == b"kept"


async def test_a_process_that_keeps_nothing_has_no_disk_to_fill(faults: Faults) -> None:
    with pytest.raises(BadFault, match=r"keeps nothing|takes root"):
        await faults.handle(asked("fill-disk", free_bytes=0))


@pytest.mark.parametrize("free", [-1, 1 << 40, 0.5, True, None])
async def test_a_room_that_is_none_is_refused(faults: Faults, free: object) -> None:
    with pytest.raises(BadFault, match="free_bytes"):
        await faults.handle(asked("fill-disk", free_bytes=free))
