"""The identity agent of one zone. It serves nothing but its metrics: leaves reach their processes as files."""

import asyncio
import os
import signal

import pydantic

from mesh import logs
from mesh.errors import MeshError
from security.identity.agent import Agent
from security.identity.authority import Authority
from security.identity.settings import IdentitySettings


def run() -> None:
    """Run until SIGTERM. Exit status 2 and one clear line if the authority cannot be opened."""
    # Whatever this process writes is its user's alone.
    os.umask(0o077)
    try:
        settings = IdentitySettings()
        logs.configure(settings)
        authority = Authority.open_or_create(settings.home / "ca" / settings.zone, settings.trust_domain, settings.zone)
    except pydantic.ValidationError as error:
        raise SystemExit(f"identity: {error}") from error
    except MeshError as error:
        logs.logger("identity").error("authority_unusable", reason=error.reason, detail=error.message)
        raise SystemExit(2) from error
    asyncio.run(_main(settings, authority))


async def _main(settings: IdentitySettings, authority: Authority) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    agent = Agent(settings.home, authority, settings.leaf_ttl, settings.other_root_wait_s)
    await agent.run(stopping, settings.poll_s)
