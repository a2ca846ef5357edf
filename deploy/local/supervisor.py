"""Starts the rows of the table in dependency order, keeps them running, and stops them in reverse."""

import asyncio
import contextlib
import os
import resource
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from signal import SIGKILL

from deploy.local import networks, processes
from deploy.local.errors import LauncherError, ProcessFailed
from deploy.local.health import NotReady, check_identity
from deploy.local.settings import REPOSITORY, Home
from deploy.local.table import Row

BACK_OFF_FIRST_S = 0.2
BACK_OFF_MAX_S = 10.0
# A process that has lived this long after becoming ready starts again without a penalty.
STABLE_S = 30.0
# Restarts in a row without a stable life before the process is given up and called failed.
RESTARTS_MAX = 20
# While the mesh starts, a process that ends this often is a reason to stop rather than to try on.
START_ATTEMPTS_MAX = 3
POLL_S = 0.2
LOG_BYTES_MAX = 32 * 2**20
LOG_LOOK_S = 5.0
LOG_TAIL_BYTES = 600
# Too little for a dump in a file, and what the kernel takes for "none" where dumps are piped to a program.
CORE_BYTES = 1
# To load a process takes a processor for seconds. Where others of its workload serve, it takes what they leave.
STARTING_NICE = 10


class State(StrEnum):
    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    BACKING_OFF = "backing off"
    SUSPENDED = "suspended"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass
class Child:
    """A row at run time."""

    row: Row
    state: State = State.WAITING
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0
    reason: str = ""
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    # Cleared while the process is held down on purpose.
    wanted: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        running = self.process is not None and self.process.returncode is None
        return self.process.pid if running and self.process else None


Listener = Callable[[Child], None]


class Supervisor:
    """One instance runs one table once. Not for several threads: everything happens on one loop."""

    def __init__(self, home: Home, rows: Iterable[Row], on_change: Listener = lambda child: None) -> None:
        self._home = home
        self._on_change = on_change
        self._children = {row.name: Child(row) for row in rows}
        self._stopping = False
        self._started = False
        self._log_task: asyncio.Task[None] | None = None

    @property
    def children(self) -> dict[str, Child]:
        return self._children

    def pids(self) -> dict[str, int]:
        return {name: child.pid for name, child in self._children.items() if child.pid is not None}

    async def start(self) -> None:
        """Start everything; returns when every row is ready.

        Raises:
            ProcessFailed: one of them did not become ready; whatever had started has been stopped again.
        """
        self._check_table()
        _leave_no_core_dump()
        self._log_task = asyncio.create_task(self._bound_logs())
        for child in self._children.values():
            if child.row.spare:
                child.state = State.SUSPENDED
            else:
                child.wanted.set()
            if child.row.command:
                child.task = asyncio.create_task(self._keep(child), name=child.row.name)
            else:
                child.ready.set()
        try:
            await self._all_ready()
        except BaseException:
            await self.stop()
            raise
        self._started = True

    async def stop(self) -> None:
        """Stop everything: a process only after all that depend on it are gone. Bounded by the rows' grace times."""
        self._stopping = True
        gone = {name: asyncio.Event() for name in self._children}

        async def stop_one(child: Child) -> None:
            dependants = [other for other in self._children.values() if child.row.name in other.row.after]
            for dependant in dependants:
                await gone[dependant.row.name].wait()
            await self._end(child)
            self._change(child, State.STOPPED)
            gone[child.row.name].set()

        await asyncio.gather(*(stop_one(child) for child in self._children.values()))
        if self._log_task:
            self._log_task.cancel()

    def kill(self, name: str, signal: int = SIGKILL) -> int:
        """Send a signal to the running process; the supervisor will start it again if it dies. Returns its pid."""
        pid = self._children[name].pid
        if pid is None:
            raise ProcessFailed(f"{name} is not running", "Wait until it is ready")
        os.kill(pid, signal)
        return pid

    async def suspend(self, name: str) -> None:
        """Stop a process and hold it down until `resume`. Those that depend on it go on."""
        child = self._children[name]
        child.wanted.clear()
        # One that is not to be known any more is forgotten before it goes.
        self._change(child, child.state)
        await self._terminate(child)
        self._change(child, State.SUSPENDED)

    async def resume(self, name: str) -> None:
        """Let a suspended process run again; `wait_ready` tells when it does."""
        child = self._children[name]
        child.restarts = 0
        child.wanted.set()

    async def restart(self, name: str) -> None:
        """Stop and start again, gracefully; returns when it is ready."""
        await self.suspend(name)
        await self.resume(name)
        await self.wait_ready(name)

    async def wait_ready(self, name: str, deadline_s: float = 60.0) -> None:
        child = self._children[name]
        try:
            await asyncio.wait_for(child.ready.wait(), deadline_s)
        except TimeoutError as error:
            raise self._failure(child, f"was not ready within {deadline_s:g} s") from error

    def _check_table(self) -> None:
        for child in self._children.values():
            unknown = set(child.row.after) - self._children.keys()
            assert not unknown, f"{child.row.name} waits for {unknown}, which is no row of the table"
        done: set[str] = set()
        while len(done) < len(self._children):
            free = {
                name for name, child in self._children.items() if name not in done and done.issuperset(child.row.after)
            }
            assert free, f"these wait for each other: {sorted(self._children.keys() - done)}"
            done |= free

    async def _all_ready(self) -> None:
        """Wait until all are ready at once, or for the first one to fail: one that was ready may have ended again."""
        tasks = {child.task for child in self._children.values() if child.task}
        wanted = [child for child in self._children.values() if not child.row.spare]
        while waiting := [child for child in wanted if not child.ready.is_set()]:
            ready = asyncio.create_task(waiting[0].ready.wait())
            try:
                done, _ = await asyncio.wait({ready, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                ready.cancel()
            for task in done & tasks:
                task.result()
            tasks -= done

    async def _keep(self, child: Child) -> None:
        """The life of one row: wait, start, watch, start again."""
        for name in child.row.after:
            await self._children[name].ready.wait()
        while not self._stopping:
            await child.wanted.wait()
            try:
                await self._run_once(child)
            except LauncherError as error:
                child.reason = str(error)
                if not self._started:
                    self._change(child, State.FAILED)
                    raise
            if child.state is State.DONE or self._stopping:
                return
            if not child.wanted.is_set():
                continue
            child.restarts += 1
            if child.restarts > RESTARTS_MAX or (not self._started and child.restarts >= START_ATTEMPTS_MAX):
                self._change(child, State.FAILED)
                failure = self._failure(child, f"ended {child.restarts} times ({child.reason})")
                if not self._started:
                    raise failure
                return
            self._change(child, State.BACKING_OFF)
            await asyncio.sleep(min(BACK_OFF_MAX_S, BACK_OFF_FIRST_S * 2 ** (child.restarts - 1)))

    async def _run_once(self, child: Child) -> None:
        """Start the process, wait until it is ready, and return when it has ended."""
        row = child.row
        self._change(child, State.STARTING)
        deadline = time.monotonic() + row.ready_within_s
        await self._wait_for_identity(child, deadline)
        if row.prepare:
            await row.prepare()
        if self._stopping or not child.wanted.is_set():
            return
        child.process = await self._spawn(row)
        processes.write_pid(self._home.pid_file(row.name), child.process.pid)
        gentle = (
            self._started and self._others_serve(child) and processes.yield_to_others(child.process.pid, STARTING_NICE)
        )
        self._on_change(child)
        if row.one_shot:
            await self._finish_step(child, deadline)
            return
        became_ready = await self._wait_ready(child, deadline)
        if became_ready:
            if gentle:
                processes.yield_to_others(child.process.pid, 0)
            child.reason = ""
            child.ready.set()
            self._change(child, State.READY)
        since = time.monotonic()
        code = await child.process.wait()
        child.ready.clear()
        child.reason = f"signal {-code}" if code < 0 else f"exit status {code}"
        if became_ready and time.monotonic() - since > STABLE_S:
            child.restarts = 0

    def _others_serve(self, child: Child) -> bool:
        workload = child.row.process.workload
        return any(other.ready.is_set() for other in self._children.values() if other.row.process.workload == workload)

    async def _wait_for_identity(self, child: Child, deadline: float) -> None:
        while child.row.identity:
            try:
                check_identity(child.row.identity)
                return
            except NotReady as error:
                if time.monotonic() > deadline:
                    raise self._failure(child, f"waits in vain for its identity ({error})") from error
            await asyncio.sleep(POLL_S)

    async def _wait_ready(self, child: Child, deadline: float) -> bool:
        """True when ready, False when it ended before."""
        assert child.process is not None
        while child.process.returncode is None:
            try:
                if child.row.ready:
                    await child.row.ready()
            except NotReady as error:
                child.reason = str(error)
            else:
                return child.process.returncode is None
            if time.monotonic() > deadline:
                reason = f"was not ready within {child.row.ready_within_s:g} s ({child.reason})"
                await self._terminate(child)
                raise self._failure(child, reason)
            await asyncio.sleep(POLL_S)
        return False

    async def _finish_step(self, child: Child, deadline: float) -> None:
        assert child.process is not None
        try:
            code = await asyncio.wait_for(child.process.wait(), max(0.0, deadline - time.monotonic()))
        except TimeoutError as error:
            await self._terminate(child)
            raise self._failure(child, f"did not finish within {child.row.ready_within_s:g} s") from error
        if code:
            raise self._failure(child, f"ended with exit status {code}")
        self._change(child, State.DONE)
        child.ready.set()

    async def _spawn(self, row: Row) -> asyncio.subprocess.Process:
        """Its own session (a Ctrl-C at the terminal is ours to pass on) and its own log."""
        self._home.run(row.name).mkdir(mode=0o700, parents=True, exist_ok=True)
        log = self._home.log(row.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, **row.environment, "ISTHMUS_HOME": str(self._home.root)}
        # Many processes load the same modules: whoever is first compiles them for all, also where this shell would not.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        # setpriv asks the kernel for a SIGTERM at the launcher's death, then becomes the command: same pid.
        wrapper = () if row.command[0] == "setpriv" else ("setpriv", "--pdeathsig", "TERM", "--")
        if row.namespace:
            wrapper = (*networks.entrance(row.namespace), *wrapper)
        with log.open("ab") as output:
            return await asyncio.create_subprocess_exec(
                *wrapper,
                *row.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                cwd=REPOSITORY,
                start_new_session=True,
            )

    async def _terminate(self, child: Child) -> None:
        """Ask, wait for the grace time, kill."""
        process = child.process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(child.row.stop_signal)
        try:
            await asyncio.wait_for(process.wait(), child.row.grace_s)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _end(self, child: Child) -> None:
        await self._terminate(child)
        if child.task:
            child.task.cancel()
            await asyncio.gather(child.task, return_exceptions=True)
        # It may have been started in the very moment of the first look.
        await self._terminate(child)
        self._home.pid_file(child.row.name).unlink(missing_ok=True)

    def _failure(self, child: Child, what: str) -> ProcessFailed:
        log = self._home.log(child.row.name)
        tail = last_lines(log)
        return ProcessFailed(f"{child.row.name} {what}{': ' + tail if tail else ''}", f"See {log}")

    def _change(self, child: Child, state: State) -> None:
        child.state = state
        self._on_change(child)

    async def _bound_logs(self) -> None:
        """A log that has grown too large is copied to <name>.log.1 and emptied; its process appends and goes on."""
        while True:
            await asyncio.sleep(LOG_LOOK_S)
            for name in self._children:
                with contextlib.suppress(FileNotFoundError):
                    await asyncio.to_thread(bound_log, self._home.log(name), LOG_BYTES_MAX)


def bound_log(log: Path, bytes_max: int) -> None:
    if log.stat().st_size <= bytes_max:
        return
    with log.open("r+b") as current, log.with_suffix(".log.1").open("wb") as old:
        while block := current.read(2**20):
            old.write(block)
        current.truncate(0)


def last_lines(log: Path) -> str:
    """The end of a log, in one line."""
    try:
        with log.open("rb") as lines:
            lines.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
            return " | ".join(lines.read().decode("utf-8", "replace").strip().splitlines()[-3:])
    except FileNotFoundError:
        return ""


def _leave_no_core_dump() -> None:
    """For this process and all that it starts: a dump of theirs would hold keys, and what is personal, in clear."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    soft = CORE_BYTES if hard == resource.RLIM_INFINITY else min(CORE_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
