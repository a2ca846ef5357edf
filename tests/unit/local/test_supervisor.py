"""The supervisor, on real processes."""

import asyncio
import os
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from signal import SIGKILL

import psutil
import pytest

from deploy.local import processes
from deploy.local.errors import ProcessFailed
from deploy.local.settings import Home
from deploy.local.supervisor import CORE_BYTES, STARTING_NICE, Child, State, Supervisor, bound_log
from deploy.local.table import Row
from deploy.local.topology import Process

MakeRow = Callable[..., Row]
DEADLINE_S = 20.0


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        await asyncio.sleep(0.02)


async def test_a_row_starts_only_after_those_it_waits_for_are_ready(home: Home, row: MakeRow, diary: Path) -> None:
    supervisor = Supervisor(home, [row("room", after=("database",)), row("database")])
    await supervisor.start()
    assert diary.read_text().split("\n")[:2] == ["database started", "room started"]
    await supervisor.stop()


async def test_stopping_drains_those_that_depend_before_what_they_depend_on(
    home: Home, row: MakeRow, diary: Path
) -> None:
    supervisor = Supervisor(home, [row("database"), row("room", after=("database",)), row("gateway", after=("room",))])
    await supervisor.start()
    pids = supervisor.pids().values()
    await supervisor.stop()
    assert diary.read_text().split("\n")[3:6] == ["gateway stopped", "room stopped", "database stopped"]
    assert not any(psutil.pid_exists(pid) for pid in pids)


async def test_no_process_may_leave_a_core_dump(home: Home, row: MakeRow) -> None:
    """It would hold keys, and what is personal, in clear."""
    supervisor = Supervisor(home, [row("room")])
    await supervisor.start()
    (pid,) = supervisor.pids().values()
    soft, _ = resource.prlimit(pid, resource.RLIMIT_CORE)
    assert soft <= CORE_BYTES
    await supervisor.stop()


@pytest.fixture
def never_stable(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the machine keeps a test waiting, no life counts as a stable one, which would begin a new count."""
    monkeypatch.setattr("deploy.local.supervisor.STABLE_S", 3600.0)


@pytest.mark.usefixtures("never_stable")
async def test_a_killed_process_comes_back_by_itself(home: Home, row: MakeRow) -> None:
    supervisor = Supervisor(home, [row("room")])
    await supervisor.start()
    child = supervisor.children["room"]
    killed = supervisor.kill("room", SIGKILL)
    await until(lambda: child.restarts == 1 and child.state is State.READY, "back after a kill")
    assert child.pid != killed
    assert child.reason == ""
    await supervisor.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a process its weight back")
async def test_who_starts_beside_others_that_serve_takes_what_they_leave(home: Home, row: MakeRow) -> None:
    rows = [replace(row(name), process=Process(name, "private", "room", name)) for name in ("room-1", "room-2")]
    seen: list[tuple[State, int]] = []
    own = os.getpriority(os.PRIO_PROCESS, 0)

    def look(child: Child) -> None:
        if child.pid is not None:
            seen.append((child.state, os.getpriority(os.PRIO_PROCESS, child.pid) - own))

    supervisor = Supervisor(home, rows, look)
    await supervisor.start()
    assert {nice for _, nice in seen} == {0}
    seen.clear()
    supervisor.kill("room-1", SIGKILL)
    await until(lambda: (State.READY, 0) in seen, "back with its full weight")
    assert (State.STARTING, STARTING_NICE) in seen
    await supervisor.stop()


# Is ready, ends, and is ready again only after the other one, which waits for that end.
FALTERS = """
import pathlib, signal, sys, time
name, ready, diary = sys.argv[1:]
ready, diary = pathlib.Path(ready), pathlib.Path(diary)
if "faltered" not in diary.read_text():
    ready.touch()
    time.sleep(3)
    ready.unlink()
    diary.open("a").write("faltered\\n")
    sys.exit(1)
while not ready.with_name("late.ready").exists():
    time.sleep(0.01)
time.sleep(0.3)
ready.touch()
signal.pause()
"""
LATE = """
import pathlib, signal, sys, time
name, ready, diary = sys.argv[1:]
while "faltered" not in pathlib.Path(diary).read_text():
    time.sleep(0.01)
pathlib.Path(ready).touch()
signal.pause()
"""


async def test_the_start_waits_for_a_process_that_was_ready_and_ended(home: Home, row: MakeRow) -> None:
    supervisor = Supervisor(home, [row("falters", FALTERS), row("late", LATE)])
    await asyncio.wait_for(supervisor.start(), DEADLINE_S)
    assert supervisor.children["falters"].restarts == 1
    assert all(child.ready.is_set() for child in supervisor.children.values())
    await supervisor.stop()


@pytest.mark.usefixtures("never_stable")
async def test_restarts_wait_longer_each_time(home: Home, row: MakeRow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.local.supervisor.BACK_OFF_FIRST_S", 0.01)
    waits: list[float] = []
    sleep = asyncio.sleep

    async def record(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0.001)

    supervisor = Supervisor(home, [row("room")])
    await supervisor.start()
    monkeypatch.setattr("deploy.local.supervisor.POLL_S", 0.0)
    monkeypatch.setattr("deploy.local.supervisor.asyncio.sleep", record)
    child = supervisor.children["room"]
    for restart in range(1, 4):
        supervisor.kill("room", SIGKILL)
        deadline = time.monotonic() + DEADLINE_S
        while not (child.restarts == restart and child.state is State.READY):
            assert time.monotonic() < deadline
            await sleep(0.01)
    assert [wait for wait in waits if wait in (0.01, 0.02, 0.04)] == [0.01, 0.02, 0.04]
    await supervisor.stop()


async def test_a_process_that_never_lives_is_given_up_with_the_end_of_its_log(home: Home, row: MakeRow) -> None:
    supervisor = Supervisor(home, [row("good"), row("bad", script="raise SystemExit('no such key')")])
    with pytest.raises(ProcessFailed, match=r"bad ended 3 times.*no such key"):
        await supervisor.start()
    assert supervisor.pids() == {}


async def test_a_process_that_is_not_ready_in_time_stops_the_start(home: Home, row: MakeRow) -> None:
    supervisor = Supervisor(home, [row("slow", script="import signal; signal.pause()", ready_within_s=0.5)])
    with pytest.raises(ProcessFailed, match=r"slow was not ready within 0\.5 s \(slow\.ready is not there\)"):
        await supervisor.start()


async def test_a_step_that_fails_stops_the_start(home: Home, row: MakeRow) -> None:
    supervisor = Supervisor(home, [row("migrate", script="raise SystemExit(3)", one_shot=True)])
    with pytest.raises(ProcessFailed, match="migrate ended with exit status 3"):
        await supervisor.start()


async def test_a_step_runs_once_and_lets_others_start(home: Home, row: MakeRow) -> None:
    rows = [row("migrate", script="pass", one_shot=True), row("room", after=("migrate",))]
    supervisor = Supervisor(home, rows)
    await supervisor.start()
    assert supervisor.children["migrate"].state is State.DONE
    await supervisor.stop()


async def test_a_suspended_process_stays_down_until_it_is_resumed(home: Home, row: MakeRow) -> None:
    supervisor = Supervisor(home, [row("kafka"), row("room", after=("kafka",))])
    await supervisor.start()
    room = supervisor.children["room"].pid
    await supervisor.suspend("kafka")
    assert supervisor.children["kafka"].state is State.SUSPENDED
    assert "kafka" not in supervisor.pids()
    await supervisor.resume("kafka")
    await supervisor.wait_ready("kafka", DEADLINE_S)
    assert supervisor.children["room"].pid == room, "what depends on it was left alone"
    await supervisor.stop()


async def test_a_process_deaf_to_sigterm_is_killed_after_its_grace(home: Home, row: MakeRow) -> None:
    deaf = "import pathlib, signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    deaf += "pathlib.Path(sys.argv[2]).touch()\nwhile True: signal.pause()"
    supervisor = Supervisor(home, [row("deaf", script=deaf, grace_s=0.3)])
    await supervisor.start()
    pid = supervisor.children["deaf"].pid
    assert pid is not None
    await supervisor.stop()
    assert not psutil.pid_exists(pid)


async def test_an_orphan_is_known_by_its_start_time_and_its_home(home: Home, row: MakeRow) -> None:
    supervisor = Supervisor(home, [row("room")])
    await supervisor.start()
    pid = supervisor.children["room"].pid
    assert [process.pid for process in processes.orphans(home).values()] == [pid]
    assert processes.orphans(Home(home.root / "elsewhere")) == {}
    home.pid_file("room").write_text(f"{pid} 1.0\n")
    assert processes.orphans(home) == {}, "the pid now belongs to another process"
    home.pid_file("room").write_text(f"{os.getpid()} {psutil.Process().create_time()}\n")
    assert processes.orphans(home) == {}, "a process of another home is never ours to end"
    await supervisor.stop()


def test_a_log_that_has_grown_too_large_is_put_aside_and_emptied(tmp_path: Path) -> None:
    log = tmp_path / "room.log"
    with log.open("ab") as writer:
        writer.write(b"x" * 100)
        writer.flush()
        bound_log(log, 50)
        writer.write(b"next")
    assert log.read_bytes() == b"next"
    assert log.with_suffix(".log.1").read_bytes() == b"x" * 100
