"""The private zone's database in a second place, all the time: a copy of the cluster, and its log ever since.

PostgreSQL's own way (chapter 25.3 of its manual): pg_basebackup makes the copy and its manifest, pg_receivewal streams
the log. Commits wait for its receiver, as for a standby (failover.py): while it streams, what was answered is here. The
way back is restore.py.

The directory, ISTHMUS_BACKUP, belongs on another machine's disk. It holds generations, each enough by itself:

    newest               a link to the one that is written
    20261122T181500Z/    base (the copy) and wal (the log since)

Keys are in none of them: a backup without the keys of a member who was erased is nothing (ADR 51).
"""

import asyncio
import hashlib
import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from signal import SIGINT
from typing import Any, Final

import psycopg

from deploy.local import postgres, replication
from deploy.local.errors import LauncherError
from deploy.local.settings import Home, LauncherSettings

WORKLOAD: Final = "backup"
NEWEST: Final = "newest"
BASE: Final = "base"
WAL: Final = "wal"
STOP_SIGNAL: Final = SIGINT
# Restoring takes as long as its log is long: a receiver that starts after a day begins anew.
AGE_MAX: Final = timedelta(days=1)
GENERATIONS_MAX: Final = 2
_NAMED: Final = "%Y%m%dT%H%M%SZ"
_PARTIAL: Final = ".partial"
# pg_basebackup writes it last.
_MANIFEST: Final = "backup_manifest"
# Reading both takes the time of copying all.
TAKE_DEADLINE_S: Final = 1800.0
_SLOT: Final = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = %s"
_STREAMS: Final = "SELECT 1 FROM pg_stat_replication WHERE application_name = %s AND state = 'streaming'"


def check(settings: LauncherSettings) -> None:
    """
    Raises:
        LauncherError: the database is none of ours to back up.
    """
    if settings.backup and settings.database_url:
        remedy = "Unset ISTHMUS_BACKUP, or ISTHMUS_DATABASE_URL: whoever runs that database backs it up"
        raise LauncherError("ISTHMUS_BACKUP is for the PostgreSQL that this mesh runs itself", remedy)


def command(home: Home, directory: Path, nodes: tuple[str, ...]) -> tuple[str, ...]:
    """The log's receiver. It ends when the connection does: the next one may have to begin a new generation."""
    receiver = str(postgres.binaries() / "pg_receivewal")
    options = ("--slot", WORKLOAD, "--synchronous", "--no-loop", "-d", _connection(home, nodes))
    return (*postgres.unprivileged("INT"), receiver, "-D", str(directory / NEWEST / WAL), *options)


async def prepare(home: Home, directory: Path, nodes: tuple[str, ...]) -> None:
    """Before the receiver starts: go on with the newest generation, or begin another where its log has a gap, where it
    is of another primary, or a day old.

    Raises:
        LauncherError: the primary does not answer, or gives no copy.
    """
    try:
        async with await postgres.connect(home, replication.read(home).primary) as connection:
            kept = await (await connection.execute(_SLOT, [WORKLOAD])).fetchone()
            if kept is not None and kept[0] in ("reserved", "extended") and _is_young(directory):
                return
            await _reserve_log(connection, exists=kept is not None)
    except (psycopg.Error, OSError) as error:
        raise LauncherError(f"The database cannot be backed up: {error}", "See the log of postgres") from error
    await asyncio.to_thread(_begin, home, directory, nodes)


async def receiving(home: Home) -> bool:
    """Whether the primary sends its log. Raises whatever psycopg raises."""
    async with await postgres.connect(home, replication.read(home).primary) as connection:
        return await (await connection.execute(_STREAMS, [WORKLOAD])).fetchone() is not None


def generations(directory: Path) -> list[Path]:
    """Those that can be restored, the oldest first."""
    return sorted(
        path for path in directory.glob("*T*Z") if (path / BASE / _MANIFEST).exists() and (path / WAL).is_dir()
    )


def begun(generation: Path) -> datetime:
    """When its copy was begun: nothing before it can be restored."""
    return datetime.strptime(generation.name, _NAMED).replace(tzinfo=UTC)


def verify(base: Path) -> None:
    """Hold a copy against its manifest, as pg_verifybackup does; that of the wheel ends with a segmentation fault.

    Raises:
        LauncherError: a file is missing, or is not what was sent.
    """
    manifest = base / _MANIFEST
    for each in json.loads(manifest.read_bytes())["Files"]:
        path = base / (each["Path"] if "Path" in each else bytes.fromhex(each["Encoded-Path"]).decode())
        try:
            with path.open("rb") as content:
                found = hashlib.file_digest(content, "sha256").hexdigest()
        except FileNotFoundError:
            found = "nothing"
        if found != each["Checksum"]:
            raise LauncherError(f"{path} is not what the database has sent", "Remove the copy, and take another")


async def _reserve_log(connection: psycopg.AsyncConnection[Any], *, exists: bool) -> None:
    """From now on the primary removes no log that was not received."""
    if exists:
        await connection.execute("SELECT pg_drop_replication_slot(%s)", [WORKLOAD])
    await connection.execute("SELECT pg_create_physical_replication_slot(%s, true)", [WORKLOAD])


def _is_young(directory: Path) -> bool:
    newest = directory / NEWEST
    complete = newest.is_symlink() and newest.resolve() in generations(directory.resolve())
    return complete and datetime.now(UTC) - begun(newest.resolve()) < AGE_MAX


def _begin(home: Home, directory: Path, nodes: tuple[str, ...]) -> None:
    directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    postgres.make_directories(directory)
    link = directory / f"{NEWEST}{_PARTIAL}"
    link.unlink(missing_ok=True)
    for left in directory.glob(f"*{_PARTIAL}"):
        shutil.rmtree(left)
    generation = directory / datetime.now(UTC).strftime(_NAMED)
    partial = generation.with_name(generation.name + _PARTIAL)
    postgres.make_directories(partial, partial / WAL)
    base, source = str(partial / BASE), _connection(home, nodes)
    options = ("--checkpoint=fast", "--wal-method=stream", "--manifest-checksums=SHA256")
    postgres.run("pg_basebackup", "-D", base, "-d", source, *options, within_s=TAKE_DEADLINE_S)
    # What cannot be restored is found out now, and not on the day.
    verify(partial / BASE)
    partial.rename(generation)
    link.symlink_to(generation.name)
    link.replace(directory / NEWEST)
    for old in generations(directory)[:-GENERATIONS_MAX]:
        shutil.rmtree(old)


def _connection(home: Home, nodes: tuple[str, ...]) -> str:
    hosts = ",".join(str(home.sockets(node)) for node in nodes)
    writing = " target_session_attrs=read-write" if len(nodes) > 1 else ""
    return f"host={hosts} user={postgres.SUPERUSER} application_name={WORKLOAD} connect_timeout=5{writing}"
