"""Faults of processes, made and undone by the launcher, on a real process that counts its open files."""

import asyncio
import os
import resource
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from signal import SIGKILL

import psutil
import pytest

from deploy.local.faults import Faults
from deploy.local.leases import BadFault
from deploy.local.settings import Home
from deploy.local.supervisor import Child, State, Supervisor
from deploy.local.table import Row
from deploy.local.topology import Process
from tests.unit.local.conftest import asked, file_probe

DEADLINE_S = 30.0
# Says that it has started: a fault must not meet the interpreter's own start.
SLEEPER = "import pathlib, signal, sys; pathlib.Path(sys.argv[1]).touch(); signal.pause()"


@pytest.fixture
async def supervisor(tmp_path: Path) -> AsyncIterator[Supervisor]:
    up = tmp_path / "up"
    command = (sys.executable, "-c", SLEEPER, str(up))
    rows = [
        Row(Process("one", "public", "edge", "one"), command, grace_s=2.0, ready=file_probe(up)),
        Row(Process("nobody", "public", "operator", "nobody")),
        Row(Process("spare", "public", "edge", "spare"), command, grace_s=2.0, spare=True),
    ]
    supervisor = Supervisor(Home(tmp_path), rows)
    await supervisor.start()
    yield supervisor
    await supervisor.stop()


async def becomes(child: Child, state: State) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while child.state is not state:  # noqa: ASYNC110 (a state has no event)
            await asyncio.sleep(0.01)


async def stopped(pid: int, wanted: bool) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while (psutil.Process(pid).status() == psutil.STATUS_STOPPED) != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_frozen_process_thaws_when_it_is_healed(supervisor: Supervisor, faults: Faults) -> None:
    pid = (await faults.handle(asked("freeze")))["pid"]
    await stopped(pid, True)
    assert await faults.handle({"do": "heal", "lease": "key"}) == {"healed": 1}
    await stopped(pid, False)
    assert supervisor.children["one"].pid == pid


async def test_a_fault_ends_with_its_time_although_nobody_asks(faults: Faults) -> None:
    pid = (await faults.handle(asked("freeze", ttl_s=0.2)))["pid"]
    await stopped(pid, False)


@pytest.mark.parametrize("abruptly", [False, True])
async def test_a_process_is_held_down_until_it_is_healed(
    supervisor: Supervisor, faults: Faults, abruptly: bool
) -> None:
    child = supervisor.children["one"]
    pid = child.pid
    await faults.handle(asked("hold", abruptly=abruptly))
    assert (child.pid, child.state) == (None, State.SUSPENDED)
    await faults.handle({"do": "heal", "lease": "key"})
    await becomes(child, State.READY)
    assert child.pid not in (None, pid)


async def test_a_killed_process_comes_back_without_healing(supervisor: Supervisor, faults: Faults) -> None:
    child = supervisor.children["one"]
    pid = (await faults.handle({"do": "kill", "process": "one"}))["pid"]
    async with asyncio.timeout(DEADLINE_S):
        while child.pid in (None, pid):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_process_out_of_files_gets_its_limit_back(faults: Faults) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    answer = await faults.handle(asked("exhaust-files"))
    assert resource.prlimit(answer["pid"], resource.RLIMIT_NOFILE)[0] == answer["open"]
    await faults.handle({"do": "heal"})
    assert resource.prlimit(answer["pid"], resource.RLIMIT_NOFILE) == before


async def test_a_process_out_of_memory_gets_its_limit_back(faults: Faults) -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    answer = await faults.handle(asked("exhaust-memory"))
    assert resource.prlimit(answer["pid"], resource.RLIMIT_AS)[0] == answer["has"]
    await faults.handle({"do": "heal"})
    assert resource.prlimit(answer["pid"], resource.RLIMIT_AS) == before


async def test_a_starved_process_runs_now_and_then_until_it_is_fed(faults: Faults) -> None:
    pid = (await faults.handle(asked("starve", share=0.2)))["pid"]
    for wanted in (True, False, True):
        await stopped(pid, wanted)
    await faults.handle({"do": "heal"})
    assert psutil.Process(pid).status() != psutil.STATUS_STOPPED


@pytest.mark.parametrize("share", [0, 1, 2.0, True, None, "half"])
async def test_a_share_that_is_none_starves_nobody(faults: Faults, share: object) -> None:
    with pytest.raises(BadFault, match="share"):
        await faults.handle(asked("starve", share=share))


async def test_a_spare_node_runs_while_it_is_asked_for_and_is_drained_after(
    supervisor: Supervisor, faults: Faults
) -> None:
    child = supervisor.children["spare"]
    assert (child.pid, (await faults.handle({"do": "active"}))["spares"]) == (None, ["spare"])
    assert await faults.handle(asked("add", workload="edge", nodes=1)) == {"added": ["spare"]}
    await becomes(child, State.READY)
    assert (await faults.handle({"do": "active"}))["spares"] == []
    await faults.handle({"do": "heal"})
    assert (child.pid, child.state, child.wanted.is_set()) == (None, State.SUSPENDED, False)


@pytest.mark.parametrize(
    "asked_for",
    [{"workload": "edge", "nodes": 2}, {"workload": "edge", "nodes": 0}, {"workload": "orders", "nodes": 1}],
)
async def test_nodes_that_are_not_spare_cannot_be_added(faults: Faults, asked_for: dict[str, object]) -> None:
    with pytest.raises(BadFault, match="spare nodes"):
        await faults.handle(asked("add", **asked_for))


async def test_healing_outlives_the_death_of_what_was_frozen(supervisor: Supervisor, faults: Faults) -> None:
    pid = (await faults.handle(asked("freeze")))["pid"]
    os.kill(pid, SIGKILL)
    child = supervisor.children["one"]
    async with asyncio.timeout(DEADLINE_S):
        while child.pid in (None, pid):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await faults.handle({"do": "heal"})
    await stopped(child.pid or 0, False)


@pytest.mark.parametrize("process", ["nobody", "no-such", None, 1, ["one"]])
async def test_what_is_no_process_is_refused(faults: Faults, process: object) -> None:
    for do in ("kill", "freeze", "hold", "exhaust-files", "lose-identity"):
        with pytest.raises(BadFault, match="no process"):
            await faults.handle(asked(do, process=process))
