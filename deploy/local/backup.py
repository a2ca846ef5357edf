"""The private zone's database in a second place, all the time: a copy of the cluster, and its log ever since.

PostgreSQL's own way (chapter 25.3 of its manual): pg_basebackup makes the copy and its manifest, pg_receivewal streams
the log. Commits wait for its receiver, as for a standby (failover.py): while it streams, what was answered is here. The
way back is restore.py.

The directory, ISTHMUS_BACKUP, belongs on another machine's disk (copies.py says what lies in it). While the log is
received, a new copy is taken every ISTHMUS_BACKUP_EVERY_H hours, and what no copy that is kept needs of the log goes.

Keys are in none of them: a backup without the keys of a member who was erased is nothing (ADR 51).
"""

import asyncio
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from signal import SIGINT
from typing import Any, Final

import psycopg

from deploy.local import copies, postgres, replication
from deploy.local.copies import NEWEST, PARTIAL, WAL
from deploy.local.errors import LauncherError
from deploy.local.settings import Home, LauncherSettings

WORKLOAD: Final = "backup"
STOP_SIGNAL: Final = SIGINT
LOOK_S: Final = 1.0
# A copy that failed is taken again after this.
AGAIN_S: Final = 600.0
# Whoever copies is somebody else than the receiver: for the one commits wait, and for the other nobody must.
_COPIER: Final = "backup-copy"
_SLOT: Final = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = %s"
_STREAMS: Final = "SELECT 1 FROM pg_stat_replication WHERE application_name = %s AND state = 'streaming'"


def check(settings: LauncherSettings) -> None:
    """
    Raises:
        LauncherError: the database is none of ours to back up, or the directory holds another region's backups.
    """
    if settings.backup and settings.database_url:
        remedy = "Unset ISTHMUS_BACKUP, or ISTHMUS_DATABASE_URL: whoever runs that database backs it up"
        raise LauncherError("ISTHMUS_BACKUP is for the PostgreSQL that this mesh runs itself", remedy)
    if settings.backup:
        copies.settle_region(settings.backup, settings.region)


def command(home: Home, directory: Path, nodes: tuple[str, ...]) -> tuple[str, ...]:
    """The log's receiver. It ends when the connection does: the next one may have to begin another log."""
    receiver = str(postgres.binaries() / "pg_receivewal")
    options = ("--slot", WORKLOAD, "--synchronous", "--no-loop", "-d", _connection(home, nodes, WORKLOAD))
    return (*postgres.unprivileged("INT"), receiver, "-D", str(directory / NEWEST / WAL), *options)


async def prepare(home: Home, directory: Path, nodes: tuple[str, ...]) -> None:
    """Before the receiver starts: go on with the newest log, or begin another where that has a gap, or is of another
    primary. While its first copy is taken nothing is received.

    Raises:
        LauncherError: the primary does not answer, or gives no copy.
    """
    try:
        async with await postgres.connect(home, replication.read(home).primary) as connection:
            kept = await (await connection.execute(_SLOT, [WORKLOAD])).fetchone()
            if kept is not None and kept[0] in ("reserved", "extended") and _has_copy(directory):
                return
            await _reserve_log(connection, exists=kept is not None)
    except (psycopg.Error, OSError) as error:
        raise LauncherError(f"The database cannot be backed up: {error}", "See the log of postgres") from error
    await asyncio.to_thread(_begin, home, directory, nodes)


async def receiving(home: Home) -> bool:
    """Whether the primary sends its log. Raises whatever psycopg raises."""
    async with await postgres.connect(home, replication.read(home).primary) as connection:
        return await (await connection.execute(_STREAMS, [WORKLOAD])).fetchone() is not None


class Copying:
    """Takes copies beside the receiver, so that no restoring reads the log of weeks. One for the life of the mesh."""

    def __init__(self, home: Home, directory: Path, nodes: tuple[str, ...], every: timedelta) -> None:
        self._home = home
        self._directory = directory.absolute()
        self._source = _connection(home, nodes, _COPIER)
        self._every = every

    async def run(self) -> None:
        """Look each second, until cancelled."""
        while True:
            pause_s = LOOK_S
            try:
                if self._due() and await receiving(self._home):
                    await asyncio.to_thread(self._take)
            except (LauncherError, psycopg.Error, OSError) as error:
                with self._home.log(WORKLOAD).open("a") as log:
                    log.write(f"{datetime.now(UTC).isoformat()} no copy was taken: {error}\n")
                pause_s = AGAIN_S
            await asyncio.sleep(pause_s)

    def _due(self) -> bool:
        # Where there is none, the receiver's start takes the first.
        found = copies.complete(self._directory)
        return bool(found) and datetime.now(UTC) - copies.begun(found[-1]) >= self._every

    def _take(self) -> None:
        log = (self._directory / NEWEST).resolve()
        copies.take(self._source, log, f"{copies.BASE}-{copies.moment()}")
        copies.prune(self._directory)


async def _reserve_log(connection: psycopg.AsyncConnection[Any], *, exists: bool) -> None:
    """From now on the primary removes no log that was not received."""
    if exists:
        await connection.execute("SELECT pg_drop_replication_slot(%s)", [WORKLOAD])
    await connection.execute("SELECT pg_create_physical_replication_slot(%s, true)", [WORKLOAD])


def _has_copy(directory: Path) -> bool:
    newest = directory / NEWEST
    return newest.is_symlink() and any(copy.parent == newest.resolve() for copy in copies.complete(directory.resolve()))


def _begin(home: Home, directory: Path, nodes: tuple[str, ...]) -> None:
    directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    postgres.make_directories(directory)
    link = directory / f"{NEWEST}{PARTIAL}"
    link.unlink(missing_ok=True)
    for left in directory.glob(f"*{PARTIAL}"):
        shutil.rmtree(left)
    begun = directory / copies.moment()
    partial = begun.with_name(begun.name + PARTIAL)
    postgres.make_directories(partial, partial / WAL)
    copies.take(_connection(home, nodes, _COPIER), partial)
    partial.rename(begun)
    link.symlink_to(begun.name)
    link.replace(directory / NEWEST)
    copies.prune(directory)


def _connection(home: Home, nodes: tuple[str, ...], name: str) -> str:
    hosts = ",".join(str(home.sockets(node)) for node in nodes)
    writing = " target_session_attrs=read-write" if len(nodes) > 1 else ""
    return f"host={hosts} user={postgres.SUPERUSER} application_name={name} connect_timeout=5{writing}"
