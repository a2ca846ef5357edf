"""Copies of the database's cluster, from which a backup's log goes on (backup.py).

pg_basebackup makes a copy and its manifest while everything runs, the log's receiver included. The directory of a
backup holds unbroken logs, each with the copies that it goes on from:

    REGION               whose members they hold: no other region backs up to here
    newest               a link to the one that is written
    20261122T181500Z/    wal (the log), base (the copy that was there first), base-20261123T181502Z (a later one)
"""

import hashlib
import json
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from deploy.local import postgres
from deploy.local.errors import LauncherError
from mesh.files import DIRECTORY_MODE, PUBLIC_MODE, write_file

NEWEST: Final = "newest"
# The country whose members' data the backups hold.
REGION: Final = "REGION"
BASE: Final = "base"
WAL: Final = "wal"
PARTIAL: Final = ".partial"
# The one before as well: the newest may be damaged, and a moment before it may be asked for.
COPIES_MAX: Final = 2
# Reading both takes the time of copying all.
TAKE_DEADLINE_S: Final = 1800.0
_NAMED: Final = "%Y%m%dT%H%M%SZ"
# pg_basebackup writes it last.
_MANIFEST: Final = "backup_manifest"
_LABEL: Final = "backup_label"
_STARTS_AT: Final = re.compile(r"START WAL LOCATION: .* \(file ([0-9A-F]{24})\)")
_SEGMENT: Final = re.compile(r"[0-9A-F]{24}")
# A segment's name begins with its timeline; where it stands in the log comes behind.
_TIMELINE_CHARACTERS: Final = 8


def settle_region(directory: Path, region: str) -> None:
    """Let the directory hold backups of this region, if none has settled it.

    Raises:
        LauncherError: it holds another's, or cannot be written to.
    """
    try:
        directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        if not (directory / REGION).exists():
            write_file(directory / REGION, region.encode() + b"\n", PUBLIC_MODE)
    except OSError as error:
        raise LauncherError(f"{directory} cannot be written to: {error.strerror}", "Make it writable") from error
    require_region(directory, region)


def require_region(directory: Path, region: str) -> None:
    """Refuse what is another region's. A directory from before there were regions is anybody's.

    Raises:
        LauncherError: it is.
    """
    path = directory / REGION
    settled = path.read_text().strip() if path.exists() else region
    if settled != region:
        remedy = "Name a directory of this region, or set ISTHMUS_REGION to where this mesh runs"
        raise LauncherError(f"{directory} holds backups of {settled}, and this mesh runs for {region}", remedy)


def complete(directory: Path) -> list[Path]:
    """Those that can be restored, the oldest first."""
    found = (path.parent for path in directory.glob(f"*T*Z/{BASE}*/{_MANIFEST}"))
    return sorted((path for path in found if log_of(path).is_dir() and path.suffix != PARTIAL), key=begun)


def log_of(copy: Path) -> Path:
    """What PostgreSQL wrote since."""
    return copy.parent / WAL


def begun(copy: Path) -> datetime:
    named = copy.name.removeprefix(BASE).removeprefix("-") or copy.parent.name
    return datetime.strptime(named, _NAMED).replace(tzinfo=UTC)


def ended(copy: Path) -> datetime:
    """When it was whole: nothing before it can be restored from it."""
    return datetime.fromtimestamp((copy / _MANIFEST).stat().st_mtime, UTC)


def moment() -> str:
    """Now, as logs and copies are named."""
    return datetime.now(UTC).strftime(_NAMED)


def take(source: str, log: Path, name: str = BASE) -> None:
    """Another copy beside a log, which must reach back to before this begins. source: the primary, as libpq reads it.

    Raises:
        LauncherError: the primary gives none, or it is not what the primary has sent.
    """
    for left in log.glob(f"{BASE}*{PARTIAL}"):
        shutil.rmtree(left)
    partial = log / f"{name}{PARTIAL}"
    options = ("--checkpoint=fast", "--wal-method=stream", "--manifest-checksums=SHA256")
    postgres.run("pg_basebackup", "-D", str(partial), "-d", source, *options, within_s=TAKE_DEADLINE_S)
    # What cannot be restored is found out now, and not on the day.
    verify(partial)
    partial.rename(log / name)


def verify(copy: Path) -> None:
    """Hold a copy against its manifest, as pg_verifybackup does; that of the wheel ends with a segmentation fault.

    Raises:
        LauncherError: a file is missing, or is not what was sent.
    """
    for each in json.loads((copy / _MANIFEST).read_bytes())["Files"]:
        path = copy / (each["Path"] if "Path" in each else bytes.fromhex(each["Encoded-Path"]).decode())
        try:
            with path.open("rb") as content:
                found = hashlib.file_digest(content, "sha256").hexdigest()
        except FileNotFoundError:
            found = "nothing"
        if found != each["Checksum"]:
            raise LauncherError(f"{path} is not what the database has sent", "Remove the copy, and take another")


def prune(directory: Path) -> None:
    """Remove all but the newest copies, and of the logs what comes before those."""
    kept = complete(directory)[-COPIES_MAX:]
    for log in directory.glob("*T*Z"):
        starts = [_starts_at(copy) for copy in kept if copy.parent == log]
        if not starts:
            if log != (directory / NEWEST).resolve():
                shutil.rmtree(log, ignore_errors=True)
            continue
        for copy in log.glob(f"{BASE}*"):
            if copy not in kept and copy.suffix != PARTIAL:
                shutil.rmtree(copy, ignore_errors=True)
        for segment in (log / WAL).iterdir():
            if _SEGMENT.fullmatch(segment.name) and segment.name[_TIMELINE_CHARACTERS:] < min(starts):
                segment.unlink(missing_ok=True)


def _starts_at(copy: Path) -> str:
    """Where in the log a copy begins: the name of the segment, without its timeline."""
    found = _STARTS_AT.search((copy / _LABEL).read_text())
    if found is None:
        raise LauncherError(f"{copy / _LABEL} does not say where its log begins", "Remove the copy, and take another")
    return found[1][_TIMELINE_CHARACTERS:]
