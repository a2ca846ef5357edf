"""Drops what has ended by itself from every table, twice a minute."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

from mesh.clock import Clock
from mesh.logs import logger

log = logger("oauth")

SWEEP_S: Final = 30.0

Sweep = Callable[[datetime], object]


class Sweeper:
    """A service of the process. Each of `sweeps` is bounded and blocks: it runs in a thread."""

    def __init__(self, sweeps: Sequence[Sweep], clock: Clock) -> None:
        self._sweeps = sweeps
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to sweep."""
        self._task = asyncio.create_task(self._run(), name="sweeper")

    async def stop(self, grace_s: float) -> None:
        """Stop sweeping."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            now = datetime.fromtimestamp(self._clock.now_us() / 1e6, UTC)
            for sweep in self._sweeps:
                try:
                    await asyncio.to_thread(sweep, now)
                except Exception as error:  # what is left is swept the next time
                    log.warning("not_swept", detail=type(error).__name__)
