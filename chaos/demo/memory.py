"""How much memory a running mesh takes, shared pages counted once."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import psutil

# Reading it makes the kernel walk through every page table.
SAMPLE_EVERY_S = 20.0


def resident_mib(pids: Iterable[int]) -> float:
    """Memory of these processes and of all that they started, in MiB.

    Proportional set size where the kernel shows it, else resident set size, which counts shared pages once a process.
    """
    family = set(pids)
    # A child has started after its parent, so one pass in that order finds all descendants.
    running = psutil.process_iter(["ppid", "create_time"])
    for process in sorted(running, key=lambda each: each.info["create_time"] or 0.0):
        if process.info["ppid"] in family:
            family.add(process.pid)
    return sum(_bytes(pid) for pid in family) / 2**20


def _bytes(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
        return int(psutil.Process(pid).memory_info().rss)
    except (OSError, psutil.Error):
        # It has just ended, or it is somebody else's.
        return 0


class MemoryWatch:
    """Samples while `run` runs; `max_mib` is the largest sample."""

    def __init__(self, pids: Callable[[], Mapping[str, int]]) -> None:
        self._pids = pids
        self.max_mib = 0.0

    async def run(self) -> None:
        while True:
            self.max_mib = max(self.max_mib, await asyncio.to_thread(resident_mib, self._pids().values()))
            await asyncio.sleep(SAMPLE_EVERY_S)
