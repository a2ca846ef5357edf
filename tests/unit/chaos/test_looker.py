"""The mesh is asked how it is from a process of its own, which ends with who asks; no drill fails in silence."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaoslib.exceptions import InterruptExecution

from chaos import control
from chaos.drill import current, library
from chaos.drill.errors import MeshUnwell
from chaos.drill.looker import Looker
from chaos.drill.session import Session
from chaos.drill.target import Target
from deploy.local import topology
from deploy.local.settings import LauncherSettings
from deploy.local.topology import Listen, Process, Topology


@pytest.fixture
def looker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Looker]:
    """Of a mesh of one process, which does not run."""
    monkeypatch.setenv("ISTHMUS_HOME", str(tmp_path))
    listens = (Listen("grpc", "127.0.0.1", 1, "grpc"),)
    table = Topology("isthmus.internal", (Process("orders-1", "private", "orders", "orders-1", None, listens),))
    topology.write(LauncherSettings().layout.topology, table)
    looker = Looker(Target(LauncherSettings()))
    yield looker
    looker.close()


def child(looker: Looker) -> "subprocess.Popen[bytes]":
    assert looker._child is not None
    return looker._child


def test_who_does_not_run_is_named_and_the_one_who_looks_ends_with_us(looker: Looker) -> None:
    assert looker.unwell() == {"orders-1": "orders-1 does not run"}
    assert looker.unwell(["edge-1"]) == {}
    with pytest.raises(MeshUnwell, match="orders-1 does not run"):
        looker.require_well(0.0)
    running = child(looker)
    looker.close()
    assert running.returncode == 0


def test_one_that_died_is_said_and_the_next_look_begins_anew(looker: Looker) -> None:
    looker.unwell()
    child(looker).kill()
    child(looker).wait(30)
    with pytest.raises(TimeoutError):
        looker.unwell()
    assert looker.unwell(["orders-1"]) == {"orders-1": "orders-1 does not run"}


def test_whatever_keeps_a_drill_from_beginning_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISTHMUS_HOME", str(tmp_path))

    def cannot(*_: object) -> Session:
        raise RuntimeError("no certificate")

    monkeypatch.setattr(Session, "open", cannot)
    experiment = library.read(library.find("slow-core"))
    arguments = experiment["controls"][0]["provider"]["arguments"]
    current.forget_refusal()
    try:
        with pytest.raises(InterruptExecution, match="no certificate"):
            control.before_experiment_control(experiment, **arguments)
        assert "no certificate" in str(current.refusal())
    finally:
        current.forget_refusal()
