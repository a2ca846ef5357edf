"""Processes by pid and start time: whose they are, and an end to them. A pid alone may have been given to another."""

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from signal import SIGKILL, SIGTERM

import psutil

from deploy.local.settings import Home

# What the kernel's clock ticks allow two readings of one start time to differ by.
START_TIME_TOLERANCE_S = 0.05
NICE_MAX = 19


def write_pid(path: Path, pid: int) -> None:
    """Remember a process: its pid and when it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        path.write_text(f"{pid} {psutil.Process(pid).create_time()}\n")


def read_pid(home: Home, name: str) -> psutil.Process | None:
    """The process that a pid file means, if it still runs: same start time and same ISTHMUS_HOME."""
    try:
        pid, started = home.pid_file(name).read_text().split()
        process = psutil.Process(int(pid))
        if abs(process.create_time() - float(started)) > START_TIME_TOLERANCE_S:
            return None
        if process.status() == psutil.STATUS_ZOMBIE or process.environ().get("ISTHMUS_HOME") != str(home.root):
            return None
    except (OSError, ValueError, psutil.Error):
        return None
    return process


def orphans(home: Home) -> dict[str, psutil.Process]:
    """Processes of this home that a launcher left behind when it was killed, by name."""
    names = sorted(path.parent.name for path in (home.root / "run").glob("*/pid"))
    found = ((name, read_pid(home, name)) for name in names)
    return {name: process for name, process in found if process is not None}


def end(processes: Mapping[str, psutil.Process], stop_signals: Mapping[str, int], grace_s: float) -> None:
    """Ask each to stop, and kill what has not after `grace_s`. Blocks for that long at most, and a little more."""
    for name, process in processes.items():
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(stop_signals.get(name, SIGTERM))
    _, alive = psutil.wait_procs(processes.values(), timeout=grace_s)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(SIGKILL)
    psutil.wait_procs(alive, timeout=5)


def holder_of(port: int) -> str:
    """Who listens on a port of this machine, as far as we may know."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if (
                connection.status == psutil.CONN_LISTEN
                and connection.laddr
                and connection.laddr.port == port
                and connection.pid
            ):
                return f"pid {connection.pid} ({psutil.Process(connection.pid).name()})"
    return "another process"


def resident_mib(pids: Iterable[int]) -> float:
    """Memory of these processes and their children, in MiB; shared pages are counted by their share (PSS)."""
    total = 0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            for one in (process, *process.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    total += one.memory_full_info().pss
    return total / 2**20


def yield_to_others(pid: int, by: int) -> bool:
    """Make a session nicer than we are: its processes, and its autogroup (sched(7)), which is what counts where the
    kernel has such. 0 takes it back.

    False, and nothing is done, for whoever could not take it back: that needs root.
    """
    if os.geteuid() != 0:
        return False
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PGRP, pid, min(NICE_MAX, os.getpriority(os.PRIO_PROCESS, 0) + by))
        Path(f"/proc/{pid}/autogroup").write_text(str(by))
    return True
