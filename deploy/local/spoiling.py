"""Leaves that nobody may accept, put where a process reads its own: what an authority that went wrong would leave."""

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from deploy.local.leases import BadFault
from deploy.local.settings import Home
from deploy.local.topology import Process
from mesh.files import read_file, read_key_file
from mesh.tls import Identity
from security.identity import rotation, wallet
from security.identity.authority import Authority, Leaf

EXPIRED: Final = "expired"
STRANGER: Final = "stranger"
# What a thief has: a leaf that was good, of a root that has been replaced since, which is how leaves are revoked here.
REVOKED: Final = "revoked"
WAYS: Final = (EXPIRED, STRANGER, REVOKED)
# The shortest life that an authority gives, and a moment more.
SHORTEST = timedelta(seconds=2)
OVER_S = 2.1

Stolen = dict[str, Leaf]


def stolen(directory: Path) -> Leaf:
    """A copy of the live leaf in `directory` (run/<process>/identity), with its key."""
    live = (directory / wallet.LIVE).resolve(strict=True)
    chain = read_file(live / "svid.pem")
    certificate = x509.load_pem_x509_certificate(chain)
    key = read_key_file(live / "key.pem")
    return Leaf(chain, key, certificate.serial_number, certificate.not_valid_after_utc)


async def spoil(
    home: Home, process: Process, directory: Path, how: str, kept: Leaf | None = None
) -> Callable[[], Awaitable[None]]:
    """Make a leaf live in `directory` that is over, of an authority that nobody trusts, or `kept` from before the root
    was replaced.

    Returns what makes the one before live again.

    Raises:
        BadFault: nothing was kept, or its root is trusted still.
    """
    live = directory / wallet.LIVE
    before = live.resolve(strict=True)
    if how == REVOKED:
        leaf = _revoked(home, process, kept)
    else:
        leaf = await asyncio.to_thread(_leaf, home, process, Identity(live).spiffe_id.trust_domain, how)
    if how == EXPIRED:
        await asyncio.sleep(OVER_S)
    gateway = before / "gateway-ca.pem"
    spoilt = wallet.Wallet(leaf, read_file(before / "bundle.pem"), read_file(gateway) if gateway.exists() else None)
    # One that was stolen may lie here still, as the version before.
    shutil.rmtree(directory / f"{leaf.serial:040x}", ignore_errors=True)
    version = await asyncio.to_thread(wallet.write, directory, spoilt)

    async def restore() -> None:
        # The agent may have given it a better one in the meantime.
        if live.resolve() == version:
            await asyncio.to_thread(wallet.make_live, directory, before)

    return restore


def _revoked(home: Home, process: Process, kept: Leaf | None) -> Leaf:
    if kept is None:
        raise BadFault(f"no leaf of {process.name} was stolen before")
    if rotation.under_way(home.root / "ca" / process.zone):
        raise BadFault(f"the root of the {process.zone} zone is being replaced: wait until the old one is forgotten")
    certificate = x509.load_pem_x509_certificate(kept.chain_pem)
    for root in x509.load_pem_x509_certificates(rotation.known(home.root / "ca" / process.zone, "root")):
        try:
            certificate.verify_directly_issued_by(root)
        except (ValueError, TypeError, InvalidSignature):
            continue
        raise BadFault(f"the root of the {process.zone} zone has not been replaced since")
    return kept


def _leaf(home: Home, process: Process, trust_domain: str, how: str) -> Leaf:
    addresses = [one.address for one in process.listens]
    if how == EXPIRED:
        authority = Authority.open_or_create(home.root / "ca" / process.zone, trust_domain, process.zone)
        return authority.issue(process.workload, SHORTEST, addresses)
    with tempfile.TemporaryDirectory() as elsewhere:
        stranger = Authority.open_or_create(Path(elsewhere) / process.zone, trust_domain, process.zone)
        return stranger.issue(process.workload, timedelta(hours=12), addresses)
