"""Keys, as an operator rotates them."""

import asyncio
import os
import sys
from pathlib import Path

from isthmus.members.v1 import members_pb2 as pb
from isthmus.members.v1.members_pb2_grpc import DataKeysStub

from chaos.checkers.books import DEADLINE_S, Channel

BATCH = 500
COMMAND_WITHIN_S = 150.0


async def rotated(channel: Channel) -> int:
    """Wrap every data key under a new key-encryption key; returns how many of these there are then.

    Raises:
        MeshError: the members' room does not answer.
    """
    keys = DataKeysStub(channel("members"))
    before = await keys.GetKeyStatus(pb.GetKeyStatusRequest(), timeout=DEADLINE_S)
    await keys.AddKek(pb.AddKekRequest(newest_version=before.keks[-1].version), timeout=DEADLINE_S)
    # Each round makes it less, or somebody else does: at most as many rounds as there are keys.
    for _ in range(before.remaining + sum(kek.data_keys for kek in before.keks) + 1):
        answer = await keys.RewrapDataKeys(pb.RewrapDataKeysRequest(limit=BATCH), timeout=DEADLINE_S)
        if not answer.remaining:
            break
    return len((await keys.GetKeyStatus(pb.GetKeyStatusRequest(), timeout=DEADLINE_S)).keks)


async def root_rotated(home: Path, zone: str) -> bool:
    """`isthmus keys rotate-root` of a home: exit status 0."""
    return await _done(home, "rotate-root", zone)


async def signing_replaced(home: Path) -> bool:
    """`isthmus keys rotate-signing` of a home: exit status 0."""
    return await _done(home, "rotate-signing")


async def _done(home: Path, *command: str) -> bool:
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("isthmus")),
        *("keys", *command),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env=os.environ | {"ISTHMUS_HOME": str(home)},
    )
    try:
        return await asyncio.wait_for(process.wait(), COMMAND_WITHIN_S) == 0
    except TimeoutError:
        process.kill()
        await process.wait()
        return False
