"""How fast the edge's spool takes events.

Groups of 256 events, each written at once and synced together; then single clicks of 100 concurrent writers, each of
whom waits for the disk.
"""

import json
import subprocess
import sys
from pathlib import Path

from chaos.bench.report import Result, asked
from chaos.bench.tools import BenchError

_SPOOL = """
import asyncio, json, statistics, sys, time
from pathlib import Path
from public_edge.spool.spool import Spool, SpoolLimits

event = bytes(220)

def groups(spool, seconds):
    count, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        last = spool.append_many([event] * 256)
        count += 256
        if spool.backlog_bytes > 256 << 20:
            spool.acknowledge(last)
    return count / elapsed

async def synced_groups(spool, seconds):
    count, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        last = None
        for _ in range(16):
            last = spool.append_many([event] * 256, durable=True)
        await spool.synced(last)
        count += 16 * 256
        spool.acknowledge(last)
    return count / elapsed

async def clicks(spool, writers, seconds):
    waits, end = [], time.perf_counter() + seconds
    async def writer(number):
        await asyncio.sleep(number / writers * 0.1)
        while time.perf_counter() < end:
            began = time.perf_counter()
            await spool.synced(spool.append(event, durable=True))
            waits.append(time.perf_counter() - began)
            await asyncio.sleep(0.1)
    await asyncio.gather(*map(writer, range(writers)))
    return statistics.quantiles(waits, n=100)[98] * 1000

async def main():
    # As an edge node has it.
    sys.setswitchinterval(0.001)
    spool = Spool(Path(sys.argv[1]), SpoolLimits(bytes_max=1 << 30))
    groups(spool, 0.3)
    rates = [await synced_groups(spool, 1.0) for _ in range(3)]
    waits_ms = [await clicks(spool, 100, 2.0) for _ in range(3)]
    print(json.dumps({
        "rate": statistics.median(rates),
        "p99_ms": statistics.median(waits_ms),
    }))
    spool.close()

asyncio.run(main())
"""


def measure(directory: Path) -> list[Result]:
    """Raises BenchError."""
    directory.mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-c", _SPOOL, str(directory)], capture_output=True, text=True, check=False, timeout=120
    )
    if done.returncode:
        raise BenchError(f"the spool could not be measured: {done.stderr[-500:]}")
    found = json.loads(done.stdout)
    return [
        asked(
            "events taken by the spool and synced, groups of 256",
            found["rate"],
            "events/s",
            200_000,
            lambda v, a: v / a,
        ),
        asked("p99 of a durable click, 100 writers", found["p99_ms"], "ms", 5, lambda v, a: a / v),
    ]
