"""A fault's undoing is on disk before the fault is made, and nothing too wide reaches the mesh."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chaos.drill import custody, spec
from chaos.drill.custody import heal_leftovers, locked
from chaos.drill.errors import DrillRefused, DrillRunning, TooWide
from chaos.drill.library import Targets
from chaos.drill.loop import Loop
from chaos.drill.session import Session, check_names
from chaos.drill.undo import Undo, UndoJournal
from deploy.local import door, links, networks
from deploy.local.door import Refused
from deploy.local.settings import Home

NODES = {"edge-1": "edge", "edge-2": "edge", "kafka": "kafka"}


class Mesh:
    """Notes what it is asked, and what stood in the journal at that moment."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root)
        self.nodes = NODES
        self.asked: list[tuple[dict[str, Any], list[str]]] = []
        self.doors: list[str] = []
        self.healed: list[str] = []
        self.refuses = False

    def ask(self, at: str, **request: Any) -> dict[str, Any]:
        self.doors.append(at)
        self.asked.append((request, [one.key for one in custody.journal(self.home).open]))
        if self.refuses:
            raise Refused("Refused: no", "Say something else")
        return {"ok": True}

    def heal(self, at: str, key: str) -> None:
        self.healed.append(key)


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path)


@pytest.fixture
def session(mesh: Mesh) -> Iterator[Session]:
    radius = {"workloads": ["edge"], "processes_max": 1, "links": ["core", networks.CABLE]}
    crowd: Any = SimpleNamespace(traffic=SimpleNamespace(now_s=1.0))
    target: Any = mesh
    loop = Loop()
    yield Session("one", spec.parse({"blast_radius": radius}), target, loop, crowd, custody.journal(mesh.home))
    loop.close()


def test_the_undoing_is_on_disk_before_the_fault_is_made(session: Session, mesh: Mesh) -> None:
    session.break_processes("freeze", ["edge-1"], 30)
    (request, open_then) = mesh.asked[0]
    assert (request["do"], request["process"], request["ttl_s"]) == ("freeze", "edge-1", 30)
    assert open_then == [request["lease"]]


def test_a_fault_that_was_refused_leaves_nothing_to_undo(session: Session, mesh: Mesh) -> None:
    mesh.refuses = True
    with pytest.raises(Refused):
        session.break_link("core", 30, mode="reset")
    assert session.book.open == []
    assert len(mesh.healed) == 1


@pytest.mark.parametrize("names", [["kafka"], ["edge-1", "edge-2"], ["edge-9"]])
def test_what_is_too_wide_never_reaches_the_mesh(session: Session, mesh: Mesh, names: list[str]) -> None:
    with pytest.raises(TooWide):
        session.break_processes("freeze", names, 30)
    with pytest.raises(TooWide):
        session.break_link("kafka", 30, mode="reset")
    assert mesh.asked == []


@pytest.mark.parametrize(("link", "at"), [("core", links.NAME), (networks.CABLE, door.LAUNCHER)])
def test_a_link_is_disturbed_by_whoever_has_it(session: Session, mesh: Mesh, link: str, at: str) -> None:
    session.break_link(link, 30, mode="black-hole", directions=["there"])
    assert mesh.doors == [at]
    assert mesh.asked[0][0]["directions"] == ["there"]
    session.heal()
    assert len(mesh.healed) == 1


def test_a_kill_needs_no_undoing(session: Session, mesh: Mesh) -> None:
    session.break_processes("kill", ["edge-1"], None)
    (request, open_then) = mesh.asked[0]
    assert "ttl_s" not in request
    assert open_then == []


def test_the_next_runner_heals_what_a_killed_one_left(mesh: Mesh) -> None:
    journal = custody.journal(mesh.home)
    journal.will(Undo("one", "launcher", "edge-1: freeze"))
    journal.will(Undo("two", "links", "link core: reset"))
    target: Any = mesh
    assert heal_leftovers(target) == ["link core: reset", "edge-1: freeze"]
    assert mesh.healed == ["two", "one"]
    assert UndoJournal(journal.path).open == []


def test_one_drill_at_a_time(mesh: Mesh) -> None:
    with locked(mesh.home), pytest.raises(DrillRunning), locked(mesh.home):
        pass
    with locked(mesh.home):
        pass


@pytest.mark.parametrize(
    ("named", "why"),
    [
        (Targets(frozenset({"edge-7"}), frozenset(), frozenset()), "edge-7"),
        (Targets(frozenset(), frozenset({"orders"}), frozenset()), "orders"),
        (Targets(frozenset({"kafka"}), frozenset(), frozenset()), "blast radius"),
    ],
)
def test_a_step_that_names_nothing_real_is_refused_before_anything_else(mesh: Mesh, named: Targets, why: str) -> None:
    target: Any = mesh
    with pytest.raises(DrillRefused, match=why):
        check_names(spec.parse({"blast_radius": {"workloads": ["edge"], "processes_max": 1}}), target, named)
    assert mesh.asked == []
