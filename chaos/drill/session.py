"""One drill from its lock to its report: whatever breaks passes here, and is written down with its undoing before."""

import asyncio
import contextlib
import gc
import getpass
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isthmus.audit.v1 import audit_pb2 as pb

from chaos.checkers import audit
from chaos.checkers.oracle import acknowledged_events, landed_events, lost_business
from chaos.drill import blast, second_place
from chaos.drill.crowd import Crowd
from chaos.drill.custody import heal_leftovers, journal
from chaos.drill.errors import BadExperiment, DrillRefused, TooWide
from chaos.drill.library import Targets
from chaos.drill.logbook import Logbook
from chaos.drill.looker import Looker
from chaos.drill.loop import Loop
from chaos.drill.settlement import Measured, Outcome, settled
from chaos.drill.spec import Drill
from chaos.drill.target import OVERRIDES, Target, find, new_key
from chaos.drill.undo import Undo, UndoJournal
from chaos.load.outcomes import CallFailed
from chaos.load.transactions import CURRENCY
from deploy.local import door, links, networks, overriding, small_disk
from deploy.local.settings import LauncherSettings
from mesh.errors import MeshError

WELL_AGAIN_WITHIN_S = 120.0
# A machine that is busy lets one or the other answer late.
WELL_WITHIN_S = 10.0
OPEN_DEADLINE_S = 240.0
SETTLE_DEADLINE_S = 240.0
READ_WITHIN_S = 60.0
SECOND_PLACE_WITHIN_S = 480.0
# How far the warehouse may be behind the edge when nothing is wrong.
BEHIND_S = 3.0


@dataclass
class Window:
    """What was broken and when, in seconds of the run's timeline. `ended_s` is None while it is."""

    what: str
    key: str
    began_s: float
    ended_s: float | None = None


@dataclass
class Session:
    """Open from the first look at the mesh until the report is written."""

    name: str
    drill: Drill
    target: Target
    loop: Loop
    crowd: Crowd
    book: UndoJournal
    windows: list[Window] = field(default_factory=list)
    hit: set[str] = field(default_factory=set)
    healed_before: list[str] = field(default_factory=list)
    # The trace of this drill's record in the audit log.
    record: str = ""
    method_ended_s: float | None = None
    # Seconds from the first fault until the books could be read in a second place, and what they lack.
    second_place_s: float | None = None
    second_place_lost: int = 0
    # Seconds from the last healing until the warehouse had caught up with the edge.
    landed_after_s: float | None = None
    _healed_s: float = 0.0
    _watching: "Future[None] | None" = None
    looker: Looker = field(init=False)
    logbook: Logbook = field(init=False)

    def __post_init__(self) -> None:
        self.looker = Looker(self.target)
        self.logbook = Logbook(self.target.home.logs)

    @classmethod
    def open(cls, name: str, drill: Drill, named: Targets) -> "Session":
        """Look at the mesh, heal what an earlier drill left, start the traffic and let it run for a while.

        Raises:
            LauncherError: refused, with the reason; the mesh is as it was.
        """
        target = find(LauncherSettings())
        check_names(drill, target, named)
        healed = heal_leftovers(target)
        loop = Loop()
        crowd = Crowd(target, drill.load, drill.seed)
        session = cls(name, drill, target, loop, crowd, journal(target.home), healed_before=healed)
        try:
            session.looker.require_well(WELL_AGAIN_WITHIN_S if healed else WELL_WITHIN_S)
            loop.run(crowd.open(), OPEN_DEADLINE_S)
            # What cannot be put on record is not done.
            session.record = session.put_on_record(pb.ACTIVITY_DRILL_BEGUN)
            loop.run(session._warm_up(), OPEN_DEADLINE_S)
        except BaseException as error:
            session.close()
            if isinstance(error, MeshError | CallFailed | TimeoutError):
                raise DrillRefused(f"The mesh does not answer: {error}", "See `isthmus check`") from error
            raise
        return session

    @property
    def now_s(self) -> float:
        """Seconds of the timeline. A clock of our own thread would be another one."""

        async def read() -> float:
            return self.crowd.traffic.now_s

        return self.loop.run(read(), 10)

    def break_processes(self, do: str, names: Iterable[str], for_s: float | None, **more: Any) -> None:
        """Make one fault of each process, journal first. `for_s` is None where the mesh heals it by itself.

        Raises:
            TooWide: nothing was touched.
        """
        names = list(names)
        blast.check(self.drill.radius, self.target.nodes, self.hit, names)
        for name in names:
            lasting = {} if for_s is None else {"ttl_s": for_s}
            self._break(f"{name}: {do}", door.LAUNCHER, {"do": do, "process": name, **lasting, **more})
            self.hit.add(name)

    def break_link(self, link: str, for_s: float, **fault: Any) -> None:
        """
        Raises:
            TooWide: nothing was touched.
        """
        blast.check_link(self.drill.radius, link)
        what = f"link {link}: {fault['mode']}"
        at = door.LAUNCHER if link == networks.CABLE else links.NAME
        self._break(what, at, {"do": "disturb", "link": link, "ttl_s": for_s, **fault})

    def add_nodes(self, workload: str, nodes: int, for_s: float) -> None:
        """Let spare nodes of a workload run for so long. Nothing is broken by that, so no blast radius is asked for."""
        request = {"do": "add", "workload": workload, "nodes": nodes, "ttl_s": for_s}
        self._break(f"{workload}: {nodes} nodes more", door.LAUNCHER, request)

    def break_method(self, method: str, for_s: float, percent: int, delay_ms: int, abort: str) -> None:
        """Lay a fault over the calls of one method. The control planes push it, and take it back by themselves.

        Raises:
            TooWide: nothing was touched.
        """
        blast.check_method(self.drill.radius, method)
        request = {"method": method, "ttl_s": for_s, "percent": percent, "delay_ms": delay_ms, "abort": abort}
        request["record"] = self.record
        self._break(f"{method}: {abort or f'{delay_ms} ms'}, {percent}%", OVERRIDES, request)

    @contextlib.contextmanager
    def window(self, what: str) -> Iterator[None]:
        """Something that is done on purpose, needs no undoing, and is to be seen in the report."""
        window = Window(what, f"brief/{what}", self.now_s)
        self.windows.append(window)
        try:
            yield
        finally:
            window.ended_s = self.now_s

    def heal(self) -> list[str]:
        """Undo everything that is open, the newest first."""
        left = self.book.open
        for one in left:
            self.target.heal(one.door, one.key)
            self.book.done(one.key)
            self._end_window(one.key)
        if left:
            self._watch_backlog()
        return [one.what for one in left]

    def recovered(self, names: Iterable[str], within_s: float) -> float:
        """Wait until these processes are ready; returns the seconds that it took.

        Raises:
            MeshUnwell: they were not.
        """
        wanted, began = set(names), time.monotonic()
        self.looker.require_well(within_s, wanted)
        for window in self.windows:
            if window.ended_s is None and window.key.partition("/")[2] in wanted:
                window.ended_s = self.now_s
        self._watch_backlog()
        return time.monotonic() - began

    def wait_well(self) -> None:
        """
        Raises:
            MeshUnwell: not within WELL_AGAIN_WITHIN_S.
        """
        self.looker.require_well(WELL_AGAIN_WITHIN_S)
        for window in self.windows:
            if window.ended_s is None:
                window.ended_s = self.now_s

    def restore_elsewhere(self) -> float:
        """Restore the private zone in a second place, and compare its books with what was acknowledged until now.

        Raises:
            DrillRefused: the mesh is not backed up, or does not come up there.
            MeshError: its books cannot be read.
        """
        backup = str(self.target.ask(do="active").get("backup", ""))
        if not backup:
            raise DrillRefused("The mesh is not backed up", "Start it with ISTHMUS_BACKUP")
        home, base = self.target.home, self.target.settings.port_base
        found = self.loop.run(second_place.restored(home, base, Path(backup)), SECOND_PLACE_WITHIN_S)
        self.second_place_s = round(self.now_s - min(window.began_s for window in self.windows), 1)
        added, balance = found.books.since(self.crowd.before), found.books.ledger_sums.get(CURRENCY, 0)
        self.second_place_lost = lost_business(self.crowd.traffic.acknowledged, added)
        if balance or not found.audit_verifies:
            wrong = "the ledger does not balance" if balance else "the audit log does not verify"
            raise DrillRefused(f"In the second place {wrong}", "See docs/runbooks/region-loss.md")
        return self.second_place_s

    def linger(self) -> None:
        """Let the traffic run on, so that the second look sees a mesh left alone."""
        time.sleep(self.drill.load.after_s)

    def put_on_record(self, activity: pb.Activity.ValueType) -> str:
        """Say in the mesh's own audit log what this drill does, and who runs it. Durable when this returns
        the trace by which the record is found.

        Raises:
            MeshError: the log cannot be written to.
        """
        about = f"{self.name} run {self.crowd.run} by {getpass.getuser()}"
        return self.loop.run(audit.put_on_record(self.crowd.channel, activity, about), READ_WITHIN_S)

    def settle(self) -> Outcome:
        """End the traffic, complete what was left open, read the books and judge."""
        measured = Measured(self._healed_s, self.landed_after_s)
        return self.loop.run(settled(self.crowd, self.target, self.drill.expect, measured), SETTLE_DEADLINE_S)

    def close(self) -> None:
        self.looker.close()
        try:
            self.loop.run(self.crowd.close(), 30)
        finally:
            self.loop.close()

    async def _warm_up(self) -> None:
        # What stands now stays: to look through all of it would hold the traffic up for a tenth of a second at times.
        gc.collect()
        gc.freeze()
        self.crowd.begin()
        await asyncio.sleep(self.drill.load.before_s)

    def _break(self, what: str, at: str, request: dict[str, Any]) -> None:
        lasts = "ttl_s" in request
        key = new_key(request.get("method", "")) if lasts else f"brief/{request.get('process', '')}"
        if lasts:
            self.book.will(Undo(key, at, what))
            request = {**request, "lease": key}
        self.windows.append(Window(what, key, self.now_s))
        try:
            self.target.ask(at, **request)
        except BaseException:
            if lasts:
                self.target.heal(at, key)
                self.book.done(key)
                self._end_window(key)
            raise

    def _watch_backlog(self) -> None:
        """Measure anew how long the warehouse takes to catch up, from now on."""
        if self._watching is not None:
            self._watching.cancel()
        self.landed_after_s, self._healed_s = None, self.now_s
        self._watching = self.loop.begin(self._caught_up())

    async def _caught_up(self) -> None:
        """Nodes, topics and the bridge keep their order: once as many have landed as were acknowledged BEHIND_S ago,
        what waited has landed. Whether it was all of it, the oracle finds out at the end."""
        seen = deque[tuple[float, int]]()
        while True:
            seen.append((self.crowd.traffic.now_s, acknowledged_events(self.crowd.traffic.acknowledged)))
            with contextlib.suppress(MeshError):
                landed = landed_events(self.crowd.traffic.acknowledged, await self.crowd.books())
                now_s = self.crowd.traffic.now_s
                while len(seen) > 1 and seen[1][0] <= now_s - BEHIND_S:
                    seen.popleft()
                if landed >= seen[0][1]:
                    self.landed_after_s = round(now_s - self._healed_s, 1)
                    return
            await asyncio.sleep(0.5)

    def _end_window(self, key: str) -> None:
        for window in self.windows:
            if window.key == key and window.ended_s is None:
                window.ended_s = self.now_s


def asked_for(links_: Iterable[str]) -> list[str]:
    """The settings with which a mesh has these links."""
    through = ["ISTHMUS_FAULT_LINKS"]
    others = {"database": [*through, "ISTHMUS_FAULT_LINK_DATABASE"], networks.CABLE: ["ISTHMUS_ZONE_NETWORKS"]}
    return sorted({name for link in links_ for name in others.get(link, through)})


def check_names(drill: Drill, target: Target, named: Targets) -> None:
    """
    Raises:
        UnknownName: a step names a method that no contract has.
        BadExperiment: a step or the blast radius names a process, a workload or a link that this mesh does not have,
            or it has too few nodes, or what it takes is not ours to do.
        TooWide: a step names a process outside the declared blast radius.
    """
    radius, nodes = drill.blast_radius, target.nodes
    workloads = {*radius.workloads, *radius.whole} | named.workloads
    if unknown := sorted((workloads - set(nodes.values())) | (named.processes - nodes.keys())):
        raise BadExperiment(f"Not in this mesh: {', '.join(unknown)}", "See `isthmus status`")
    if wide := sorted(name for name in named.processes if nodes[name] not in drill.radius.workloads):
        raise TooWide(f"{', '.join(wide)}: not in the declared blast radius", blast.REMEDY)
    for method in named.methods:
        overriding.method(method)
    for workload, least in drill.spares.items():
        if len([name for name in target.spares if name.startswith(f"{workload}-")]) < least:
            raise BadExperiment(
                f"This mesh has not {least} spare nodes of {workload}", "Start it with ISTHMUS_EDGE_SPARES"
            )
    few = [f"{least} of {name}" for name, least in drill.needs.items() if len(target.of(name)) < least]
    if few:
        raise BadExperiment(f"This mesh has not {', '.join(few)}", "See the experiment for how to start it")
    if drill.root and not small_disk.possible():
        raise BadExperiment("It takes root, mkfs.ext4 and loop devices", "Run the mesh and the drill as root")
    if networks.CABLE in radius.links and not networks.possible():
        raise BadExperiment("The zones cannot have networks of their own", networks.REMEDY)
    if radius.links and (missing := sorted(set(radius.links) - set(target.links))):
        remedy = f"Start the mesh with {' and '.join(f'{name}=true' for name in asked_for(missing))}"
        raise BadExperiment(f"This mesh has no link {', '.join(missing)}", remedy)
