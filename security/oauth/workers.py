"""Threads for what waits: Authlib's core, SQLAlchemy and hashes. A bounded pool with a bounded queue."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")

THREADS: Final = 8
WAITING_MAX: Final = 64


class BusyError(Exception):
    """More requests wait than will be served in time."""


class Workers:
    """For the tasks of one loop."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="oauth")
        self._waiting = 0

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises. BusyError when too many wait."""
        if self._waiting >= WAITING_MAX:
            raise BusyError
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Let go of the threads; what still runs in them is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)
