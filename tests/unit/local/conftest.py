"""Rows of tiny real processes, and what breaks them."""

import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest

from deploy.local import topology
from deploy.local.faults import Faults
from deploy.local.health import NotReady, Probe
from deploy.local.settings import Home
from deploy.local.supervisor import Supervisor
from deploy.local.table import Row
from deploy.local.topology import Listen, Process, Topology
from security.identity.topology import OPERATORS
from tests.unit.mesh.conftest import Zone

MakeRow = Callable[..., Row]

# Says that it runs by touching a file, that it was asked to stop by writing a line, and lives until then.
STAY = """
import pathlib, signal, sys
name, ready, diary = sys.argv[1:]
def leave(*_):
    open(diary, "a").write(f"{name} stopped\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
open(diary, "a").write(f"{name} started\\n")
pathlib.Path(ready).touch()
while True:
    signal.pause()
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def diary(tmp_path: Path) -> Path:
    path = tmp_path / "diary"
    path.touch()
    return path


@pytest.fixture
def row(home: Home, diary: Path) -> MakeRow:
    """Makes a row that stays until SIGTERM; `script` replaces what it runs."""

    def make(name: str, script: str = STAY, after: tuple[str, ...] = (), **fields: object) -> Row:
        ready = home.root / f"{name}.ready"
        command = (sys.executable, "-c", script, name, str(ready), str(diary))
        settings: dict[str, object] = {"grace_s": 5.0, "ready_within_s": 20.0, "ready": file_probe(ready), **fields}
        return Row(Process(name, "private", name, name), command, after=after, **settings)  # type: ignore[arg-type]

    return make


def file_probe(path: Path) -> Probe:
    async def probe() -> None:
        if not path.exists():
            raise NotReady(f"{path.name} is not there")

    return probe


@pytest.fixture
async def faults(supervisor: Supervisor, tmp_path: Path) -> AsyncIterator[Faults]:
    """Of the processes of the module's own `supervisor`."""
    faults = Faults(supervisor, Home(tmp_path))
    yield faults
    await faults.close()


def asked(do: str, **more: object) -> dict[str, object]:
    """A fault of the process `one`, as the launcher's door is asked for it."""
    return {"do": do, "process": "one", "lease": "key", "ttl_s": 60, **more}


@pytest.fixture
def zones(tmp_path: Path) -> dict[str, Zone]:
    """Both, each with an operator as a launcher gives it one."""
    found = {name: Zone(tmp_path, name) for name in OPERATORS}
    for name, zone in found.items():
        zone.issue("operator")
        Home(tmp_path).run(OPERATORS[name].process).symlink_to(tmp_path / "run" / f"{name}-operator")
    return found


def control_planes(home: Path, ports: Mapping[str, int], *others: Process) -> None:
    """A table of a mesh: the control plane of each zone at its port, and what else there is."""
    found = (
        Process(name, zone, name, name, None, (Listen("ads", "127.0.0.1", port, "grpc"),))
        for zone, port in ports.items()
        for name in (f"control-{zone}",)
    )
    topology.write(Home(home).topology, Topology("isthmus.internal", (*found, *others)))
