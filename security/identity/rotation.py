"""A zone's root is replaced in three steps, so that nobody ever meets a certificate whose root is not known to him yet.

1. The next root is made beside the one in use; every bundle of both zones gets it as a second root.
2. When all have taken that up, the next becomes the root: leaves are issued by it. The one before stays in the bundles.
3. When no leaf of the one before is left, it leaves the bundles.

The zone's agent takes the steps, on request; what was begun is finished after a restart. The same holds for the issuer
of the zone's gateway, below the root.
"""

import shutil
import time
from pathlib import Path
from typing import Final

from mesh.files import PRIVATE_MODE, PUBLIC_MODE, read_file, read_key_file, sync_directory, write_file

REQUEST: Final = "rotate"
NEXT: Final = "next"
# Each agent looks once a second, each process a second later; a broker takes its own time.
SETTLE_S: Final = 12.0
ISSUERS: Final = ("root", "gateway")


def request(directory: Path) -> None:
    """Ask the agent of a zone (`directory`: ISTHMUS_HOME/ca/<zone>) for another root. While one is on its way, nothing
    more is asked for."""
    (directory / REQUEST).touch(PUBLIC_MODE)


def under_way(directory: Path) -> bool:
    return any((directory / name).exists() for name in (REQUEST, NEXT, _previous("root")))


def known(directory: Path, issuer: str) -> bytes:
    """The certificates of `root` or `gateway` that must be trusted now, the one in use first. PEM.

    Raises:
        FileNotFoundError: there is none yet.
    """
    found = read_file(directory / f"{issuer}.pem")
    for name in (f"{NEXT}/{issuer}.pem", _previous(issuer)):
        try:
            more = read_file(directory / name)
        except FileNotFoundError:
            continue
        # For a moment both names mean the same.
        if more not in found:
            found += more
    return found


def due(directory: Path, now: float | None = None) -> str:
    """Which step the agent must take now: "introduce", "switch", "forget", or none."""
    moment = time.time() if now is None else now
    following, before = directory / NEXT / "gateway.pem", directory / _previous("gateway")
    if following.exists():
        return "switch" if moment - following.stat().st_mtime >= SETTLE_S or before.exists() else ""
    if before.exists():
        return "forget" if moment - before.stat().st_mtime >= SETTLE_S else ""
    return "introduce" if (directory / REQUEST).exists() else ""


def switch(directory: Path) -> None:
    """Make the next root the root. Interrupted anywhere, it is finished by doing it again."""
    for issuer in ISSUERS:
        if not (directory / _previous(issuer)).exists():
            write_file(directory / _previous(issuer), read_file(directory / f"{issuer}.pem"), PUBLIC_MODE)
    for issuer in ISSUERS:
        write_file(directory / f"{issuer}.key", read_key_file(directory / NEXT / f"{issuer}.key"), PRIVATE_MODE)
        write_file(directory / f"{issuer}.pem", read_file(directory / NEXT / f"{issuer}.pem"), PUBLIC_MODE)
    (directory / REQUEST).unlink(missing_ok=True)
    shutil.rmtree(directory / NEXT)
    sync_directory(directory)


def forget(directory: Path) -> None:
    """Trust the one before no more."""
    for issuer in ISSUERS:
        (directory / _previous(issuer)).unlink(missing_ok=True)
    sync_directory(directory)


def _previous(issuer: str) -> str:
    return f"previous-{issuer}.pem"
