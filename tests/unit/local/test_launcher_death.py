"""The launcher may be killed at any time: nothing is left that the next start does not find."""

import subprocess
import sys
import time
from pathlib import Path

import psutil

from deploy.local import preflight, processes
from deploy.local.settings import Home

DEADLINE_S = 20.0
# Keeps a process that ignores SIGTERM, then waits to be killed.
LAUNCHER = """
import asyncio, pathlib, sys
from deploy.local.health import NotReady
from deploy.local.settings import Home
from deploy.local.supervisor import Supervisor
from deploy.local.table import Row
from deploy.local.topology import Process
home = pathlib.Path(sys.argv[1])
script = "import pathlib, signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN)\\n"
script += "pathlib.Path(sys.argv[1]).touch()\\nwhile True: signal.pause()"
async def deaf():
    if not (home / "deaf").exists():
        raise NotReady("it still hears")
async def main():
    command = (sys.executable, "-c", script, str(home / "deaf"))
    row = Row(Process("deaf", "private", "deaf", "deaf"), command, ready=deaf)
    supervisor = Supervisor(Home(home), [row])
    await supervisor.start()
    print("ready", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


def test_the_next_start_ends_what_a_killed_launcher_left(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with subprocess.Popen((sys.executable, "-c", LAUNCHER, str(tmp_path)), stdout=subprocess.PIPE) as launcher:
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == b"ready\n"
        launcher.kill()
    (orphan,) = processes.orphans(home).values()
    assert preflight.sweep(home, [], grace_s=0.2) == ("deaf",)
    deadline = time.monotonic() + DEADLINE_S
    while orphan.is_running() and orphan.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
    assert processes.orphans(home) == {}
