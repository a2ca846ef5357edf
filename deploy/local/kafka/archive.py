"""Make the archive of classes from which every later broker starts (application class-data sharing, JEP 350).

    python -m deploy.local.kafka.archive

Runs a broker once as the mesh would, with its certificates and topics, and keeps what its JVM had loaded and verified.
The archive lies beside the jars that it was made from. A JVM that finds it made by another Java, or from other jars,
starts without it.
"""

import asyncio
import os
import random
import sys
import tempfile
from pathlib import Path

from mesh.environment import GRPC

ATTEMPTS_MAX = 3
# Below the ports that the kernel gives to clients.
_PORT_BASES = range(20_000, 32_000, 16)


async def make() -> Path:
    """Raises LauncherError when no broker could be run, or its JVM left no archive."""
    from deploy.local.errors import LauncherError, PortTaken
    from deploy.local.kafka import broker
    from deploy.local.mesh import LocalMesh
    from deploy.local.settings import LauncherSettings

    target = broker.archive(LauncherSettings().cache)
    fresh = target.with_suffix(f".{os.getpid()}")
    target.unlink(missing_ok=True)
    # Of all programs that the mesh starts, only the JVM reads this.
    os.environ["JDK_JAVA_OPTIONS"] = f"-XX:ArchiveClassesAtExit={fresh}"
    try:
        for base in random.sample(_PORT_BASES, ATTEMPTS_MAX):
            with tempfile.TemporaryDirectory(prefix="isthmus-archive-") as home:
                try:
                    async with LocalMesh(Path(home), base, kafka_brokers=1, only=("topics",)):
                        pass
                except PortTaken:
                    continue
                break
        if not fresh.exists():
            raise LauncherError("The broker's JVM left no archive of classes", "Brokers start without one, slower")
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)
    return target


if __name__ == "__main__":
    os.environ.update(GRPC)
    made = asyncio.run(make())
    print(f"{made}: {made.stat().st_size >> 20} MiB", file=sys.stderr)
