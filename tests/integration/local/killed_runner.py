"""A drill's runner in a process of its own, which makes faults and is killed in the middle of them."""

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from signal import SIGKILL
from typing import Any

DEADLINE_S = 120.0
# The session of a drill, journal and door as ever; nobody buys anything meanwhile.
RUNNER = """
import json, signal, sys
from types import SimpleNamespace
from chaos.drill import custody, spec
from chaos.drill.loop import Loop
from chaos.drill.session import Session
from chaos.drill.target import Target
from deploy.local.settings import LauncherSettings

radius, steps = json.loads(sys.argv[1])
target = Target(LauncherSettings())
crowd = SimpleNamespace(traffic=SimpleNamespace(now_s=1.0))
drill = spec.parse({"blast_radius": radius})
session = Session("one", drill, target, Loop(), crowd, custody.journal(target.home))
for method, arguments in steps:
    getattr(session, method)(**arguments)
print("broken", flush=True)
signal.pause()
"""
Step = tuple[str, dict[str, Any]]


async def killed(home: Path, radius: dict[str, Any], steps: Sequence[Step]) -> None:
    """Make the faults of `steps`, each a method of Session with its arguments; returns when the runner is dead."""
    runner = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        RUNNER,
        json.dumps([radius, steps]),
        env=os.environ | {"ISTHMUS_HOME": str(home)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert runner.stdout is not None
    assert runner.stderr is not None
    try:
        said = await asyncio.wait_for(runner.stdout.readline(), DEADLINE_S)
        assert said == b"broken\n", (await runner.stderr.read()).decode()
    finally:
        if runner.returncode is None:
            runner.send_signal(SIGKILL)
        await runner.wait()
