"""The command `isthmus`, as a user types it."""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.local.mesh import LocalMesh

ISTHMUS = Path(sys.executable).with_name("isthmus")


async def isthmus(*arguments: str, deadline_s: float = 60.0, **settings: object) -> tuple[int, bytes, bytes]:
    """Run the command with `settings` as ISTHMUS_*; returns exit status, standard output and standard error."""
    environment = {f"ISTHMUS_{name.upper()}": str(value) for name, value in settings.items()}
    return await run(ISTHMUS.name, *arguments, deadline_s=deadline_s, environment=environment)


async def run(
    program: str,
    *arguments: str,
    deadline_s: float,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, bytes, bytes]:
    """Run a program of our own environment; returns exit status, standard output and standard error."""
    process = await asyncio.create_subprocess_exec(
        ISTHMUS.with_name(program),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | dict(environment or {}),
        cwd=folder,
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), deadline_s)
    except TimeoutError:
        process.terminate()
        await process.wait()
        raise
    assert process.returncode is not None
    return process.returncode, output, errors


async def status(mesh: LocalMesh) -> dict[str, Any]:
    code, output, errors = await isthmus(
        "status", "--json", home=mesh.home.root, port_base=mesh.settings.port_base, edge_nodes=mesh.settings.edge_nodes
    )
    assert code == 0, errors
    report: dict[str, Any] = json.loads(output)
    return report
