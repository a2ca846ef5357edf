"""The runner of a drill is killed in the middle of every kind of fault, and the next one heals all of them.

Those of PostgreSQL have their tests beside its own, those of calls on a whole mesh (tests/e2e/test_drill.py).
"""

import asyncio
import resource
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from cryptography import x509

from chaos.drill import custody
from chaos.drill.target import Target
from deploy.local import door, links, networks, small_disk, topology
from deploy.local.door import Door
from deploy.local.faults import Faults
from deploy.local.links import Links, Way
from deploy.local.settings import Home, LauncherSettings
from deploy.local.supervisor import State, Supervisor
from deploy.local.table import Row
from deploy.local.topology import Listen, Process, Topology
from security.identity import wallet
from security.identity.authority import Authority
from tests.integration.local.killed_runner import Step, killed
from tests.ports import free_port_base

DEADLINE_S = 60.0
FOR_S = 500.0
CABLE = [networks.CABLE] if networks.possible() else []
MODES = ("black-hole", "reset", "half-open", "lossy", "slow")
STAY = "import pathlib, signal, sys; pathlib.Path(sys.argv[1]).touch(); signal.pause()"
# Faults that are over as soon as they are made, and those of PostgreSQL, which have tests of their own beside its own.
NO_LEASE, OF_POSTGRES = {"kill", "lose-identity", "steal-identity"}, {"slow-disk", "lose-data"}
ARGUMENTS: dict[str, dict[str, object]] = {
    "add": {},
    "freeze": {},
    "hold": {"abruptly": True},
    "exhaust-files": {},
    "exhaust-memory": {},
    "starve": {"share": 0.2},
    "skew-clock": {"seconds": 3600},
    "spoil-identity": {"how": "stranger"},
    **({"fill-disk": {"free_bytes": 0}} if small_disk.possible() else {}),
}


@dataclass
class World:
    """A process for each fault of processes, a link for each fault of links; `broken` tells which are broken now."""

    home: Home
    supervisor: Supervisor
    faults: Faults
    links: Links
    rooted: bytes

    async def broken(self) -> set[str]:
        looked = {name: look(self, name) for name, look in LOOKS.items() if name in ARGUMENTS}
        found = {name for name, is_broken in looked.items() if is_broken}
        cut = {name for name in CABLE if any(name in str(one["what"]) for one in active(self))}
        return found | cut | {name for name, link in self.links.links.items() if link.fault is not None}

    def row(self, name: str) -> Row:
        return self.supervisor.children[name].row

    def status(self, name: str) -> str:
        pid = self.supervisor.children[name].pid
        return str(psutil.Process(pid).status()) if pid is not None else ""

    def limit(self, name: str, kind: int) -> bool:
        pid = self.supervisor.children[name].pid
        return pid is not None and resource.prlimit(pid, kind) != resource.getrlimit(kind)

    def live_is_a_strangers(self, name: str) -> bool:
        leaf = x509.load_pem_x509_certificate((self.home.identity(name) / "svid.pem").read_bytes())
        try:
            leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(self.rooted))
        except Exception:
            return True
        return False


LOOKS: dict[str, Callable[[World, str], bool]] = {
    "add": lambda world, name: world.supervisor.children[name].wanted.is_set(),
    "freeze": lambda world, name: world.status(name) == psutil.STATUS_STOPPED,
    "hold": lambda world, name: world.supervisor.children[name].state is not State.READY,
    "exhaust-files": lambda world, name: world.limit(name, resource.RLIMIT_NOFILE),
    "exhaust-memory": lambda world, name: world.limit(name, resource.RLIMIT_AS),
    "starve": lambda world, name: any(name in str(one["what"]) for one in active(world)),
    "skew-clock": lambda world, name: "deploy.local.skewed" in world.row(name).command,
    "spoil-identity": lambda world, name: world.live_is_a_strangers(name),
    "fill-disk": lambda world, name: world.home.data(name).is_mount(),
}


def active(world: World) -> list[dict[str, object]]:
    return world.faults.leases


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setenv("ISTHMUS_HOME", str(tmp_path))
    (tmp_path / "stays.py").write_text(STAY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    home = Home(tmp_path)
    authority = Authority.open_or_create(tmp_path / "ca" / "public", "isthmus.internal", "public")
    rows = []
    for name in ARGUMENTS:
        process = Process(name, "public", "edge", name, None, (Listen("http", "127.0.0.1", 9, "https"),))
        identity = home.identity(name)
        wallet.write(identity.parent, wallet.Wallet(authority.issue("edge", timedelta(hours=1)), authority.root_pem))
        home.data(name).mkdir(parents=True)
        command = (sys.executable, "-m", "stays", str(tmp_path / f"{name}.up"))
        rows.append(Row(process, command, identity=identity, grace_s=5.0, spare=name == "add"))
    topology.write(home.topology, Topology("isthmus.internal", tuple(row.process for row in rows)))
    supervisor = Supervisor(home, rows)
    await supervisor.start()
    cables = networks.Networks(free_port_base()) if CABLE else None
    if cables is not None:
        cables.up()
    faults = Faults(supervisor, home, networks=cables)
    lines = Links({f"link-{mode}": [Way(listen="127.0.0.1:0", to="127.0.0.1:9")] for mode in MODES})
    doors = [Door(door.path(home), faults.handle), Door(door.path(home, links.NAME), lines.handle)]
    for one in doors:
        await one.open()
    yield World(home, supervisor, faults, lines, authority.root_pem)
    for one in doors:
        await one.close()
    await faults.close()
    await supervisor.stop()
    if cables is not None:
        cables.down()


async def becomes(world: World, broken: set[str]) -> None:
    loop = asyncio.get_running_loop()
    ends = loop.time() + DEADLINE_S
    while (found := await world.broken()) != broken:
        assert loop.time() < ends, found ^ broken
        await asyncio.sleep(0.05)


def steps() -> list[Step]:
    of_processes: list[Step] = [
        ("break_processes", {"do": do, "names": [do], "for_s": FOR_S, **more})
        for do, more in ARGUMENTS.items()
        if do != "add"
    ]
    of_links: list[Step] = [
        ("break_link", {"link": f"link-{mode}", "for_s": FOR_S, "mode": mode, "loss": 0.5 if mode == "lossy" else 0.0})
        for mode in MODES
    ]
    of_links += [("break_link", {"link": name, "for_s": FOR_S, "mode": "black-hole"}) for name in CABLE]
    return [("add_nodes", {"workload": "edge", "nodes": 1, "for_s": FOR_S}), *of_processes, *of_links]


async def test_whatever_a_killed_runner_had_broken_is_healed_by_the_next(world: World) -> None:
    links_ = [*CABLE, *(f"link-{mode}" for mode in MODES)]
    every = {*ARGUMENTS, *links_}
    radius = {"workloads": ["edge"], "whole": ["edge"], "processes_max": 12, "links": links_}
    assert await world.broken() == set()
    await killed(world.home.root, radius, steps())
    # Nobody is left who knows of them but the mesh and the journal on disk.
    await becomes(world, every)
    target = Target(LauncherSettings())
    assert {one.door for one in custody.journal(world.home).open} == {door.LAUNCHER, links.NAME}
    healed = await asyncio.to_thread(custody.heal_leftovers, target)
    assert len(healed) == len(every)
    await becomes(world, set())
    assert active(world) == []
    assert custody.journal(world.home).open == []


def test_every_kind_of_fault_is_in_this_test_or_in_that_of_its_server(tmp_path: Path) -> None:
    lasting = (
        Faults(Supervisor(Home(tmp_path), []), Home(tmp_path)).does.keys()
        - {"active", "heal", "disturb"}
        - NO_LEASE
        - OF_POSTGRES
    )
    assert lasting - ARGUMENTS.keys() <= (set() if small_disk.possible() else {"fill-disk"})
    assert set(MODES) == set(links.MODES)
