"""The private zone in a second place: its database restored there from the backup, its rooms started on it, and their
books read, while the first place is gone. Also the process in which those rooms run."""

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from chaos.checkers import audit
from chaos.checkers.books import Books, read_books
from chaos.checkers.operator import operator
from chaos.drill.errors import DrillRefused
from deploy.local import topology
from deploy.local.mesh import LocalMesh
from deploy.local.settings import Home
from mesh.environment import GRPC

# What a backup does not hold (docs/runbooks/region-loss.md), and what the other zone's witness has seen of the log.
BROUGHT_ALONG = ("data/keys", "ca", "run/oauth", "run/seals", "data/witness")
ROOMS = ("audit", "orders", "payments", "members", "warehouse")
# Further than one mesh has ports.
PORTS_APART = 300
READY = b"ready\n"
RESTORE_WITHIN_S = 120.0
START_WITHIN_S = 180.0
STOP_WITHIN_S = 60.0
_REMEDY = "See docs/runbooks/region-loss.md"
# What only the first place has.
_NOT_THERE = ("BACKUP", "DATABASE_STANDBY", "FAULT_LINKS", "FAULT_LINK_DATABASE", "ZONE_NETWORKS")


@dataclass(frozen=True)
class SecondPlace:
    """`books` hold all that was ever done; the audit log verifies against its key and what the witness has seen."""

    books: Books
    audit_verifies: bool


async def restored(first: Home, port_base: int, backup: Path) -> SecondPlace:
    """Restore, start, read, stop. Leaves nothing behind.

    Raises:
        DrillRefused: it cannot be restored, or does not start.
        MeshError: its books cannot be read.
    """
    second = Home(first.root / "drill" / "second-place")
    await asyncio.to_thread(_bring_along, first, second)
    environment = {name: value for name, value in os.environ.items() if name.removeprefix("ISTHMUS_") not in _NOT_THERE}
    environment |= GRPC | {"ISTHMUS_HOME": str(second.root), "ISTHMUS_PORT_BASE": str(port_base + PORTS_APART)}
    try:
        await _restore(backup, environment)
        async with _rooms(second, environment), operator(second, topology.read(second.topology)) as channel:
            return SecondPlace(await read_books(channel), await audit.verifies(second.root))
    finally:
        await asyncio.to_thread(shutil.rmtree, second.root, ignore_errors=True)


def _bring_along(first: Home, second: Home) -> None:
    shutil.rmtree(second.root, ignore_errors=True)
    second.root.mkdir(mode=0o700, parents=True)
    for name in BROUGHT_ALONG:
        if (first.root / name).exists():
            shutil.copytree(first.root / name, second.root / name, symlinks=True)


async def _restore(backup: Path, environment: dict[str, str]) -> None:
    process = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).with_name("isthmus")), "restore", str(backup)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    _, said = await _within(process, RESTORE_WITHIN_S)
    if process.returncode:
        raise DrillRefused(f"The backup cannot be restored: {said.decode(errors='replace').strip()[-300:]}", _REMEDY)


@asynccontextmanager
async def _rooms(home: Home, environment: dict[str, str]) -> AsyncIterator[None]:
    log = home.root / "second-place.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *("setpriv", "--pdeathsig", "TERM", "--", sys.executable, "-m", "chaos.drill.second_place"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_WITHIN_S):
            if await process.stdout.readline() != READY:
                raise DrillRefused(f"The second place does not start: {log.read_text()[-300:].strip()}", _REMEDY)
        yield
    finally:
        process.stdin.close()
        await _within(process, STOP_WITHIN_S)


async def _within(process: asyncio.subprocess.Process, seconds: float) -> tuple[bytes, bytes]:
    try:
        async with asyncio.timeout(seconds):
            return await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()


async def _main() -> None:
    """The rooms, from ISTHMUS_*, until standard input ends."""
    async with LocalMesh(only=ROOMS):
        sys.stdout.buffer.write(READY)
        sys.stdout.buffer.flush()
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        await reader.read()


if __name__ == "__main__":
    asyncio.run(_main())
