"""The way back from a backup: a database as it was at its last commit, or at a moment before that."""

import asyncio
import shlex
import shutil
import subprocess
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from signal import SIGINT
from typing import Final

import psycopg

from deploy.local import copies, postgres, replication
from deploy.local.errors import LauncherError
from deploy.local.settings import Home
from deploy.local.supervisor import last_lines

# A day's log, and the copy.
DEADLINE_S: Final = 1800.0
STOP_S: Final = 60.0
POLL_S: Final = 0.1
_RESULT: Final = "SELECT NOT pg_is_in_recovery(), pg_last_xact_replay_timestamp()"


@dataclass(frozen=True)
class Restored:
    """`copy`: when it was begun. `last_commit` is None where nothing was committed after. `seconds`: what it took."""

    copy: datetime
    last_commit: datetime | None
    seconds: float


async def restore(
    home: Home, directory: Path, node: str = postgres.NODES[0], until: datetime | None = None, region: str = ""
) -> Restored:
    """Make a node's data from a backup; `until` leaves out what was committed later. The node must not run.

    region: whose backup it must be; "" of a mesh that backs up to it itself, and so has settled that.

    Raises:
        LauncherError: there is a database already, the backup is another region's, none reaches so far back, or it
            cannot be restored; then nothing is left of the attempt.
    """
    began, data = time.monotonic(), home.data(node)
    if region:
        copies.require_region(directory, region)
    if (data / "PG_VERSION").exists():
        raise LauncherError(f"There is a database in {data}", "Restore into an empty ISTHMUS_HOME, or move it away")
    copy = _choose(directory, until)
    try:
        await asyncio.to_thread(_copy, home, node, copy)
        last_commit = await _recover(home, node, copies.log_of(copy), until)
    except BaseException:
        shutil.rmtree(data, ignore_errors=True)
        raise
    return Restored(copies.begun(copy), last_commit, round(time.monotonic() - began, 1))


def _choose(directory: Path, until: datetime | None) -> Path:
    found = copies.complete(directory.absolute())
    if until is not None:
        found = [one for one in found if copies.ended(one) < until]
    if not found:
        moment = "" if until is None else f" from before {until.astimezone(UTC).isoformat()}"
        raise LauncherError(f"There is no backup in {directory}{moment}", "Name the directory of ISTHMUS_BACKUP")
    return found[-1]


def _copy(home: Home, node: str, copy: Path) -> None:
    data = home.data(node)
    shutil.rmtree(data, ignore_errors=True)
    postgres.make_directories(data, home.sockets(node))
    # With its owner, its modes and its holes.
    copying = ("cp", "--archive", f"{copy}/.", str(data))
    try:
        subprocess.run(copying, check=True, timeout=DEADLINE_S, capture_output=True, text=True)
    except subprocess.SubprocessError as error:
        why = getattr(error, "stderr", None) or error
        raise LauncherError(f"{copy} could not be copied: {str(why)[-300:].strip()}", "Make room") from error
    copies.verify(data)
    replication.stand_alone(data)
    signal = data / "recovery.signal"
    signal.touch()
    shutil.chown(signal, data.stat().st_uid, data.stat().st_gid)


async def _recover(home: Home, node: str, log_since: Path, until: datetime | None) -> datetime | None:
    """Let PostgreSQL read the log to its end, or to the moment, become a primary, and stop."""
    wal = shlex.quote(str(log_since))
    # What is being received has this ending until it is full.
    fetch = f'cp {wal}/"%f" "%p" 2>/dev/null || cp {wal}/"%f.partial" "%p" 2>/dev/null'
    settings = {"restore_command": fetch, "hot_standby": "off", "recovery_target_action": "promote"}
    if until is not None:
        settings["recovery_target_time"] = until.astimezone(UTC).isoformat()
    options = [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]
    log = home.log(node)
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with log.open("ab") as output:
        server = await asyncio.create_subprocess_exec(
            *postgres.command(home, node), *options, stdout=output, stderr=output, start_new_session=True
        )
    try:
        async with asyncio.timeout(DEADLINE_S):
            return await _last_commit(home, node, server)
    except TimeoutError as error:
        raise LauncherError(f"The log was not read within {DEADLINE_S:g} s", f"See {log}") from error
    finally:
        if server.returncode is None:
            server.send_signal(SIGINT)
            await asyncio.wait_for(server.wait(), STOP_S)


async def _last_commit(home: Home, node: str, server: asyncio.subprocess.Process) -> datetime | None:
    while server.returncode is None:
        try:
            async with await postgres.connect(home, node) as connection:
                primary, committed = await (await connection.execute(_RESULT)).fetchone() or (False, None)
            if primary:
                found: datetime | None = committed
                return found
        except (psycopg.Error, OSError):
            # It takes nobody until the log is read.
            await asyncio.sleep(POLL_S)
    raise LauncherError(f"The backup cannot be restored: {last_lines(home.log(node))}", f"See {home.log(node)}")
