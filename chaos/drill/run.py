"""Runs experiments through Chaos Toolkit's own library, on the mesh that runs here or on one of our own."""

import asyncio
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chaoslib.experiment import run_experiment

from chaos.drill import current, library
from chaos.drill.custody import directory, heal_leftovers, locked
from chaos.drill.errors import DrillRefused
from chaos.drill.session import asked_for, check_names
from chaos.drill.spec import Drill
from chaos.drill.target import Target, find
from deploy.local import backup
from deploy.local.errors import LauncherError, NotRunning, ProcessFailed
from deploy.local.kafka import broker
from deploy.local.settings import Home, LauncherSettings

START_WITHIN_S = 300.0
STOP_WITHIN_S = 120.0
ABORT_WITHIN_S = 180.0
# A scheduled drill begins this late at most.
LATE_S_MAX = 60.0
POLL_S = 0.5
# Rollbacks run whatever became of the method.
SETTINGS = {"runtime": {"rollbacks": {"strategy": "always"}}}


@dataclass(frozen=True)
class Done:
    """`document` is the report's; empty when Chaos Toolkit ended before there was one."""

    name: str
    document: dict[str, Any]

    @property
    def ok(self) -> bool:
        return bool(self.document.get("ok"))


@dataclass(frozen=True)
class Plan:
    """What a drill would do, in order."""

    name: str
    title: str
    drill: Drill
    steps: tuple[str, ...]
    looks: tuple[str, ...]


def run(name: str) -> Done:
    """One drill on the mesh of this home.

    Raises:
        LauncherError: refused before anything was touched.
    """
    experiment = library.read(library.find(name))
    library.check(experiment)
    find(LauncherSettings())
    # What it warns of (rollbacks, deviation) is in the report; its errors are not.
    logging.getLogger("chaostoolkit").setLevel(logging.ERROR)
    current.forget_refusal()
    journal = run_experiment(experiment, settings=deepcopy(SETTINGS))
    if (refusal := current.refusal()) is not None:
        raise refusal
    document = journal.get("isthmus") or {}
    return Done(library.name_of(experiment), document)


def plan(name: str) -> Plan:
    """Nothing is touched, and no mesh is needed.

    Raises:
        BadExperiment: it is none.
    """
    experiment = library.read(library.find(name))
    drill = library.check(experiment)
    probes = experiment["steady-state-hypothesis"]["probes"]
    looks = tuple(f"{one['name']}: {one['tolerance']}" for one in probes)
    steps = [_step(one) for one in experiment["method"]]
    steps += [f"afterwards, always: {_step(one)}" for one in experiment.get("rollbacks", ())]
    return Plan(library.name_of(experiment), experiment["title"], drill, tuple(steps), looks)


def game_day(minutes: float, seed: int) -> Iterator[str]:
    """Names of drills that this mesh can run, in a random order that `seed` decides, until the time is over.

    Each comes once before any comes again.
    """
    target = find(LauncherSettings())
    names = [one.name for one in library.listed() if _fits(one.name, target)]
    chance, ends = random.Random(seed), time.monotonic() + 60 * minutes  # noqa: S311 (no secret)
    while True:
        for name in chance.sample(names, len(names)):
            if time.monotonic() > ends:
                return
            yield name


def _fits(name: str, target: Target) -> bool:
    experiment = library.read(library.find(name))
    try:
        check_names(library.check(experiment), target, library.targets(experiment))
    except LauncherError:
        return False
    return True


def scheduled(due: Iterable[tuple[datetime, str]]) -> Iterator[Done]:
    """Wait for each time, then run. A time that passed while another drill ran is left out; a refusal is a result."""
    for at, name in due:
        wait_s = (at - datetime.now(UTC)).total_seconds()
        if wait_s < -LATE_S_MAX:
            continue
        time.sleep(max(0.0, wait_s))
        try:
            yield run(name)
        except LauncherError as error:
            yield Done(name, {"ok": False, "verdict": "refused", "problem": str(error), "checks": [], "began": str(at)})


def abort() -> list[str]:
    """Stop the drill that runs here and wait until it has healed the mesh; heal it ourselves when its runner is dead.

    Returns what was healed by us. Raises DrillRefused when the runner does not end.
    """
    home = LauncherSettings().layout
    pid = _runner(home)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        ends = time.monotonic() + ABORT_WITHIN_S
        while _runner(home) == pid:
            if time.monotonic() > ends:
                raise DrillRefused(
                    f"The runner {pid} does not end", f"Kill it, then `isthmus drill abort` again: {pid}"
                )
            time.sleep(POLL_S)
    with locked(home):
        return heal_leftovers(Target(LauncherSettings()))


@contextmanager
def mesh(names: Iterable[str] = (), log: Path | None = None) -> Iterator[bool]:
    """The mesh of this home; when none runs, one of our own that these drills can be run on, for as long as this lasts.

    Yields whether it is our own.

    Raises:
        ProcessFailed: it did not start.
    """
    settings = LauncherSettings()
    try:
        find(settings)
    except NotRunning:
        pass
    else:
        yield False
        return
    log = log or directory(settings.layout) / "mesh.log"
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Should we be killed, the launcher is told to stop, which heals first.
    command = ("setpriv", "--pdeathsig", "TERM", "--", str(Path(sys.executable).with_name("isthmus")), "run")
    with _terminated_as_interrupted(), log.open("wb") as output:
        launcher = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=os.environ | _wanted(names),
            # A Ctrl-C is for us: the mesh must outlive the healing.
            start_new_session=True,
        )
        try:
            _wait_started(launcher, settings, log)
            yield True
        finally:
            launcher.terminate()
            try:
                launcher.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                launcher.kill()
                launcher.wait(10)


def _wanted(names: Iterable[str]) -> dict[str, str]:
    """Settings of a mesh with links between the zones, a standby, and the brokers and the backup that drills need."""
    drills = [plan(name).drill for name in names]
    needs = [drill.needs for drill in drills]
    settings = {"ISTHMUS_FAULT_LINKS": "true", "ISTHMUS_DATABASE_STANDBY": "true"}
    settings |= dict.fromkeys(asked_for(link for drill in drills for link in drill.blast_radius.links), "true")
    spares = max((drill.spares.get("edge", 0) for drill in drills), default=0)
    if spares:
        settings["ISTHMUS_EDGE_SPARES"] = str(spares)
    if any(backup.WORKLOAD in each for each in needs):
        settings["ISTHMUS_BACKUP"] = str(LauncherSettings().layout.root / backup.WORKLOAD)
    brokers = max((each.get(broker.WORKLOAD, 1) for each in needs), default=1)
    return settings | ({"ISTHMUS_KAFKA_BROKERS": str(brokers)} if brokers > 1 else {})


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """A SIGTERM outside a drill ends as a Ctrl-C does: with the mesh stopped. Within one, Chaos Toolkit takes it."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait_started(launcher: "subprocess.Popen[bytes]", settings: LauncherSettings, log: Path) -> None:
    ends = time.monotonic() + START_WITHIN_S
    while launcher.poll() is None and time.monotonic() < ends:
        try:
            target = find(settings)
            if not asyncio.run(target.unwell()):
                return
        except NotRunning:
            pass
        time.sleep(POLL_S * 2)
    tail = " | ".join(log.read_text(errors="replace").strip().splitlines()[-2:])
    raise ProcessFailed(f"The mesh for the drills did not start: {tail}", f"See {log}")


def _runner(home: Home) -> int | None:
    """The pid of the runner that holds the lock."""
    try:
        with locked(home):
            return None
    except DrillRefused:
        try:
            return int((directory(home) / "lock").read_text().strip())
        except (OSError, ValueError):
            return None


def _step(activity: dict[str, Any]) -> str:
    arguments = activity["provider"].get("arguments") or {}
    said = ", ".join(f"{name}={value}" for name, value in arguments.items())
    pauses = activity.get("pauses") or {}
    before = f"wait {pauses['before']} s, then " if pauses.get("before") else ""
    after = f", then wait {pauses['after']} s" if pauses.get("after") else ""
    return f"{before}{activity['name']}: {activity['provider']['func']}({said}){after}"
