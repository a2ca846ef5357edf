"""Drills on a whole mesh: what their safety promises, and that Chaos Toolkit's own command runs them."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
import yaml

from chaos.drill import library
from deploy.local import door, overriding
from deploy.local.mesh import LocalMesh
from mesh.environment import GRPC
from tests.e2e.command import ISTHMUS, isthmus

pytestmark = pytest.mark.asyncio(loop_scope="session")
CHAOS = Path(sys.executable).with_name("chaos")
DEADLINE_S = 120.0
FAILING = "orders/InspectOrder"
LOOKS = ("mesh_is_ready", "public_availability", "ledger_balances")
EXIT_RUNNING, EXIT_UNWELL = 22, 23


def experiment(tmp_path: Path, pause_s: float) -> Path:
    """A replica of orders is frozen for `pause_s`; short traffic before and after."""
    written = shortened("slow-core")
    freeze = written["method"][0]
    freeze["provider"]["arguments"] = {"process": "orders-2", "for_s": 90}
    freeze["pauses"] = {"after": pause_s}
    return put(tmp_path, written)


def killing(tmp_path: Path) -> Path:
    """An edge node is killed. Of two that must share this machine, so what fails meanwhile is not judged."""
    written = shortened("kill-30-percent-of-edge")
    written["controls"][0]["provider"]["arguments"]["expect"] = {"public_failed_max": None, "landed_within_s": 60}
    for step in written["method"]:
        step["pauses"] = {"after": 1}
    return put(tmp_path, written)


def with_calls_that_fail(file: Path) -> Path:
    """Before the first step, the control plane is told to let some calls fail."""
    written = yaml.safe_load(file.read_text())
    arguments = {"method": FAILING, "for_s": 90, "percent": 1, "abort": "UNAVAILABLE"}
    provider = {"type": "python", "module": "chaos.actions", "func": "disturb_calls", "arguments": arguments}
    written["method"].insert(0, {"type": "action", "name": "let calls fail", "provider": provider})
    written["controls"][0]["provider"]["arguments"]["blast_radius"]["methods"] = [FAILING]
    file.write_text(yaml.safe_dump(written))
    return file


def put(tmp_path: Path, written: dict[str, Any]) -> Path:
    file = tmp_path / "short.yaml"
    file.write_text(yaml.safe_dump(written))
    return file


def shortened(name: str) -> dict[str, Any]:
    written = library.read(library.find(name))
    written["title"] = "A short drill"
    arguments = written["controls"][0]["provider"]["arguments"]
    arguments["load"] = {"public_per_s": 40, "before_s": 4, "after_s": 1}
    # How quickly is no matter of tests.
    arguments["expect"] = {"public_failed_max": 0, "landed_within_s": 60}
    # The slow looks are the oracle's business at the end anyway.
    looks = written["steady-state-hypothesis"]["probes"]
    written["steady-state-hypothesis"]["probes"] = [one for one in looks if one["provider"]["func"] in LOOKS]
    return written


def environment(mesh: LocalMesh) -> dict[str, str]:
    return os.environ | {
        "ISTHMUS_HOME": str(mesh.home.root),
        "ISTHMUS_PORT_BASE": str(mesh.settings.port_base),
        "ISTHMUS_EDGE_NODES": str(mesh.settings.edge_nodes),
    }


async def drill(mesh: LocalMesh, *arguments: str) -> tuple[int, bytes, bytes]:
    given = {"home": mesh.home.root, "port_base": mesh.settings.port_base, "edge_nodes": mesh.settings.edge_nodes}
    return await isthmus("drill", *arguments, deadline_s=DEADLINE_S, **given)


async def broken(mesh: LocalMesh) -> list[str]:
    answer = await asyncio.to_thread(door.call, door.path(mesh.home), do="active")
    return [str(lease["what"]) for lease in answer["leases"]]


async def laid(mesh: LocalMesh) -> list[dict[str, Any]]:
    """The faults that the control planes have laid over calls."""
    rows, silent = await overriding.listed(mesh.home)
    assert not silent
    return rows


async def until(what: str, holds: Callable[[], Any]) -> None:
    ends = time.monotonic() + DEADLINE_S
    while not await holds():
        assert time.monotonic() < ends, what
        await asyncio.sleep(0.1)


async def test_a_runner_killed_in_the_middle_of_a_fault_leaves_a_mesh_that_is_healed(
    mesh: LocalMesh, tmp_path: Path
) -> None:
    file = with_calls_that_fail(experiment(tmp_path, pause_s=90))
    runner = await asyncio.create_subprocess_exec(
        ISTHMUS, "drill", "run", str(file), env=environment(mesh), stdout=asyncio.subprocess.DEVNULL
    )
    try:
        await until("orders-2 is not frozen", lambda: broken(mesh))
        assert [one["on"].rpartition("/")[2] for one in await laid(mesh)] == ["InspectOrder"]
        code, _, errors = await drill(mesh, "run", str(file))
        assert code == EXIT_RUNNING, errors
    finally:
        runner.send_signal(SIGKILL)
        await runner.wait()
    # Nobody is left who knows of the fault but the mesh and the journal on disk.
    assert await broken(mesh) == ["orders-2 frozen"]
    code, output, errors = await drill(mesh, "abort", "--json")
    healed = ["orders-2: freeze", f"{FAILING}: UNAVAILABLE, 1%"]
    assert (code, sorted(json.loads(output)["healed"])) == (0, sorted(healed)), errors
    assert await broken(mesh) == []
    assert await laid(mesh) == []
    assert not (mesh.home.root / "drill" / "undo.jsonl").exists()


@pytest.mark.parametrize("make", [lambda at: experiment(at, pause_s=3), killing], ids=["freeze", "kill"])
async def test_chaos_toolkits_own_command_runs_a_drill_to_its_report(
    mesh: LocalMesh, tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    file, journal = make(tmp_path), tmp_path / "journal.json"
    runs = mesh.home.root / "drill" / "runs"
    before = set(runs.glob("*"))
    # As in anybody's shell: what gRPC must be told, the extension tells it.
    bare = {name: value for name, value in environment(mesh).items() if name not in GRPC}
    process = await asyncio.create_subprocess_exec(
        *(CHAOS, "--no-version-check", "--no-log-file", "run", "--journal-path", journal, file),
        env=bare,
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    except TimeoutError:
        process.terminate()
        await process.wait()
        raise
    written = json.loads(journal.read_text())
    assert (process.returncode, written["isthmus"]["verdict"]) == (0, "held"), output.decode()[-3000:]
    assert written["isthmus"]["figures"]["public_calls"] > 0
    assert written["steady_states"]["second"]["steady_state_met"]
    (run,) = set(runs.glob("*")) - before
    assert (run / "report.html").exists()
    assert await broken(mesh) == []


async def test_a_mesh_that_is_not_well_is_left_alone(mesh: LocalMesh, tmp_path: Path) -> None:
    await mesh.suspend("bridge-outbound")
    try:
        code, _, errors = await drill(mesh, "run", str(experiment(tmp_path, pause_s=1)))
    finally:
        await mesh.resume("bridge-outbound")
    assert code == EXIT_UNWELL
    assert b"bridge-outbound" in errors
    await mesh.wait_ready("bridge-outbound")


async def test_the_door_refuses_what_names_nothing_real(mesh: LocalMesh) -> None:
    requests: list[dict[str, Any]] = [
        {"do": "freeze", "process": "no-such-process", "lease": "one", "ttl_s": 5},
        {"do": "freeze", "process": "migrate", "lease": "one", "ttl_s": 5},
        {"do": "hold", "process": "kafka", "lease": "one", "ttl_s": 0},
        {"do": "format-the-disk"},
    ]
    for request in requests:
        with pytest.raises(door.Refused):
            await asyncio.to_thread(door.call, door.path(mesh.home), **request)
    assert await broken(mesh) == []
