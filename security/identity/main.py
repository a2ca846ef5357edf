"""The identity agent of one zone. It serves nothing but its metrics: leaves reach their processes as files."""

import asyncio
import os
import sys

import pydantic

from mesh import logs, process
from mesh.errors import MeshError
from mesh.process import Process
from security.identity.agent import Agent
from security.identity.authority import Authority
from security.identity.settings import IdentitySettings
from security.identity.topology import Holder

_EXIT_UNUSABLE = 2


def run() -> None:
    """Run until SIGTERM. Exit status 2 and one clear line if the settings or the authority cannot be used."""
    # Whatever this process writes is its user's alone.
    os.umask(0o077)
    try:
        settings = IdentitySettings()
    except pydantic.ValidationError:
        settings = None  # process.start says what is wrong with them
    if settings is not None:
        logs.configure(settings)
        try:
            # Everybody else waits for this agent; it issues its own leaf before it starts as they do.
            agent(settings).round()
        except (MeshError, OSError) as error:
            print(f"cannot start: {error}", file=sys.stderr)
            sys.exit(_EXIT_UNUSABLE)
    process.start(_main, IdentitySettings)


def agent(settings: IdentitySettings) -> Agent:
    """The agent of the settings' zone. Opens its authority, or creates it the first time."""
    authority = Authority.open_or_create(settings.home / "ca" / settings.zone, settings.trust_domain, settings.zone)
    itself = Holder(settings.node, settings.workload)
    return Agent(settings.home, authority, settings.leaf_ttl, settings.other_root_wait_s, frozenset({itself}))


async def _main(settings: IdentitySettings, process: Process) -> None:
    rounds = asyncio.create_task(agent(settings).run(process.stopping, settings.poll_s), name="rounds")
    await process.serve(None)
    await rounds
