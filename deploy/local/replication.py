"""Which of the two PostgreSQL nodes is the primary, and how a node is made ready to be that or a copy of it.

Used where ISTHMUS_DATABASE_STANDBY asks for a second node. What becomes of a primary that dies: failover.py.
"""

import asyncio
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from deploy.local import postgres, slow_disk
from deploy.local.errors import LauncherError
from deploy.local.postgres import NODES
from deploy.local.settings import Home, LauncherSettings
from mesh.files import PRIVATE_MODE, write_file

PRIMARY_WITHIN_S = 90.0
PING_S = 2.0
POLL_S = 0.2
SYNCHRONOUS = "synchronous_standby_names"
# What holds for a running primary alone: whom its commits wait for, and what a drill has done to it.
PASSING = (SYNCHRONOUS, *slow_disk.SETTINGS)


@dataclass(frozen=True)
class Roles:
    """`synchronous`: every commit that was ever answered is on the copy's disk, too."""

    primary: str = NODES[0]
    synchronous: bool = False

    @property
    def standby(self) -> str:
        return next(node for node in NODES if node != self.primary)


def path(home: Home) -> Path:
    return home.run(NODES[0]) / "roles.json"


def nodes(home: Home) -> tuple[str, ...]:
    """The nodes that the mesh of this home has."""
    return NODES if path(home).exists() else NODES[:1]


def read(home: Home) -> Roles:
    """
    Raises:
        LauncherError: what is there says nothing; to guess could make two primaries.
    """
    try:
        found = Roles(**json.loads(path(home).read_text()))
    except FileNotFoundError:
        return Roles()
    except (ValueError, TypeError) as error:
        raise LauncherError(f"{path(home)} is damaged", 'Write {"primary": NODE} into it') from error
    if found.primary not in NODES:
        raise LauncherError(f"{path(home)} names no node", f"The primary is one of {', '.join(NODES)}")
    return found


def write(home: Home, roles: Roles) -> None:
    """Durable when this returns."""
    target = path(home)
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_file(target, json.dumps(asdict(roles)).encode(), PRIVATE_MODE)


async def prepare(home: Home, node: str) -> None:
    """Before a node starts. The primary commits alone until a copy streams from it; the other is copied anew: what it
    has may have gone another way than the primary's since.

    Raises:
        LauncherError: the primary does not answer, or gives no copy.
    """
    roles = read(home)
    if node == roles.primary:
        write(home, Roles(node))
        await postgres.prepare(home, node)
        await asyncio.to_thread(stand_alone, home.data(node))
        return
    await _wait_for(home, roles.primary)
    await postgres.clone(home, node, roles.primary)
    await asyncio.to_thread(_commit_alone, home.data(node))


def wanted(settings: LauncherSettings) -> tuple[str, ...]:
    """The nodes that run: both where a standby is asked for, and in a home whose newest state the second one has."""
    return NODES if settings.database_standby or read(settings.layout).primary != NODES[0] else NODES[:1]


async def prepare_alone(home: Home) -> None:
    """Before the only node starts, in a home that may have had two.

    Raises:
        LauncherError: the other one has taken over since the processes were chosen.
    """
    if read(home).primary != NODES[0]:
        raise LauncherError(f"The primary of this home is {NODES[1]}", "Start again: both nodes start then")
    path(home).unlink(missing_ok=True)
    await postgres.prepare(home)
    await asyncio.to_thread(stand_alone, home.data(NODES[0]))


async def _wait_for(home: Home, primary: str) -> None:
    ends = time.monotonic() + PRIMARY_WITHIN_S
    while True:
        try:
            async with asyncio.timeout(PING_S):
                await postgres.ping(home, primary)
            return
        except Exception as error:
            # Whatever the driver raises while the primary is still starting.
            if time.monotonic() > ends:
                raise LauncherError(f"{primary} gives no copy of itself: {error}", "See its log") from error
        await asyncio.sleep(POLL_S)


def stand_alone(data: Path) -> None:
    """Let a node that does not run begin as a primary whose commits wait for nobody."""
    (data / "standby.signal").unlink(missing_ok=True)
    _commit_alone(data)


def _commit_alone(data: Path) -> None:
    """Let commits wait for nothing. ALTER SYSTEM keeps its settings in this file, and a copy gets it with the rest."""
    settings = data / "postgresql.auto.conf"
    kept = [line for line in settings.read_text().splitlines(True) if not line.startswith(PASSING)]
    settings.write_text("".join(kept))
