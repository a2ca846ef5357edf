"""What must be so before anything starts. Each failure is one clear line with its remedy."""

import fcntl
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterable
from typing import IO

from deploy.local import envoy, postgres, processes
from deploy.local.errors import AlreadyRunning, DiskFull, HomeNotWritable, LauncherError, PortTaken, ToolMissing
from deploy.local.settings import Home, LauncherSettings
from deploy.local.table import Row

JAVA_MIN = 17


def open_home(home: Home) -> IO[str]:
    """Make the home and take its lock; the lock is held for as long as the file stays open.

    Raises:
        HomeNotWritable: it cannot be made or written.
        AlreadyRunning: another launcher holds it.
    """
    try:
        home.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = home.lock.open("a+")
    except OSError as error:
        remedy = "Set ISTHMUS_HOME to a directory that you may write"
        raise HomeNotWritable(f"{home.root} cannot be written: {error.strerror}", remedy) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        pid = lock.read().strip() or "unknown"
        lock.close()
        remedy = "Stop it, or set ISTHMUS_HOME and ISTHMUS_PORT_BASE for a second mesh"
        raise AlreadyRunning(f"A mesh already runs in {home.root} (launcher pid {pid})", remedy) from error
    lock.seek(0)
    lock.truncate()
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


def check_networks(settings: LauncherSettings) -> None:
    """Raises LauncherError where the zones' own networks would hide what a user brought along."""
    brought = [name for name in ("database_url", "kafka_bootstrap") if getattr(settings, name)]
    if settings.zone_networks and brought:
        names = " and ".join(f"ISTHMUS_{name.upper()}" for name in brought)
        remedy = f"Leave out ISTHMUS_ZONE_NETWORKS or {names}"
        raise LauncherError(f"No way leads from the zones' own networks to {names}", remedy)


def check_disk(settings: LauncherSettings) -> None:
    free_mib = shutil.disk_usage(settings.layout.root).free // 2**20
    if free_mib < settings.disk_free_mib_min:
        raise DiskFull(
            f"Only {free_mib} MiB are free at {settings.layout.root}, and {settings.disk_free_mib_min} MiB are needed",
            "Make room, or set ISTHMUS_HOME to another disk",
        )


def check_tools(rows: Iterable[Row]) -> None:
    """The programs that the rows of this table need."""
    names = {row.name for row in rows}
    if shutil.which("setpriv") is None:
        raise ToolMissing("setpriv is not installed", "Install the package util-linux")
    if any(row.process.listen("raft") for row in rows):
        java_version()
    if "postgres" in names:
        postgres.binaries()
    if any(name.endswith("-gateway") for name in names):
        envoy.binary()


def java_version() -> int:
    """The major version of `java` on the PATH.

    Raises:
        ToolMissing: there is none, or it is older than Kafka takes.
    """
    remedy = f"Install Java {JAVA_MIN} or newer (Debian: openjdk-17-jre-headless), or set ISTHMUS_KAFKA_BOOTSTRAP"
    try:
        answer = subprocess.run(("java", "-version"), capture_output=True, text=True, timeout=20)
    except FileNotFoundError as error:
        raise ToolMissing("Kafka needs Java, and there is no `java` on the PATH", remedy) from error
    found = re.search(r'version "(?:1\.)?(\d+)', answer.stderr + answer.stdout)
    version = int(found[1]) if found else 0
    if version < JAVA_MIN:
        raise ToolMissing(f"Kafka needs Java {JAVA_MIN}, and `java` is version {version or 'unknown'}", remedy)
    return version


def check_ports(rows: Iterable[Row]) -> None:
    """Raises PortTaken for the first port that cannot be bound now."""
    for row in rows:
        if row.namespace:
            # A network of its own has all its ports free.
            continue
        for listen in row.process.listens:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((listen.address, listen.port))
                except OSError as error:
                    raise PortTaken(
                        f"Port {listen.port}, which {row.name} needs ({listen.name}), is taken by "
                        f"{processes.holder_of(listen.port)}",
                        "Stop it, or set ISTHMUS_PORT_BASE to another base",
                    ) from error


def sweep(home: Home, rows: Iterable[Row], grace_s: float = 10.0) -> tuple[str, ...]:
    """End what a killed launcher left running here. Only for the holder of the lock. Returns the names."""
    found = processes.orphans(home)
    processes.end(found, {row.name: row.stop_signal for row in rows}, grace_s)
    for name in found:
        home.pid_file(name).unlink(missing_ok=True)
    return tuple(found)
