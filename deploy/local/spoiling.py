"""Leaves that nobody may accept, put where a process reads its own: what an authority that went wrong would leave."""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Final

from deploy.local.settings import Home
from deploy.local.topology import Process
from mesh.files import read_file
from mesh.tls import Identity
from security.identity import wallet
from security.identity.authority import Authority, Leaf

EXPIRED: Final = "expired"
STRANGER: Final = "stranger"
WAYS: Final = (EXPIRED, STRANGER)
# The shortest life that an authority gives, and a moment more.
SHORTEST = timedelta(seconds=2)
OVER_S = 2.1


async def spoil(home: Home, process: Process, directory: Path, how: str) -> Callable[[], Awaitable[None]]:
    """Make a leaf live in `directory` (run/<process>/identity) that is over, or of an authority that nobody trusts.

    Returns what makes the one before live again.
    """
    live = directory / wallet.LIVE
    before = live.resolve(strict=True)
    leaf = await asyncio.to_thread(_leaf, home, process, Identity(live).spiffe_id.trust_domain, how)
    if how == EXPIRED:
        await asyncio.sleep(OVER_S)
    gateway = before / "gateway-ca.pem"
    spoilt = wallet.Wallet(leaf, read_file(before / "bundle.pem"), read_file(gateway) if gateway.exists() else None)
    version = await asyncio.to_thread(wallet.write, directory, spoilt)

    async def restore() -> None:
        # The agent may have given it a better one in the meantime.
        if live.resolve() == version:
            await asyncio.to_thread(wallet.make_live, directory, before)

    return restore


def _leaf(home: Home, process: Process, trust_domain: str, how: str) -> Leaf:
    if how == EXPIRED:
        authority = Authority.open_or_create(home.root / "ca" / process.zone, trust_domain, process.zone)
        return authority.issue(process.workload, SHORTEST)
    with tempfile.TemporaryDirectory() as elsewhere:
        stranger = Authority.open_or_create(Path(elsewhere) / process.zone, trust_domain, process.zone)
        return stranger.issue(process.workload, timedelta(hours=12))
