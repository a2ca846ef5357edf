"""What a process does again and again beside its calls."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from mesh.errors import MeshError
from mesh.logs import logger


class Rounds:
    """A service of the process: runs `round` every `interval_s`, until it is stopped.

    A round that fails with a MeshError is logged, and the next one comes in its time. once_more: a last round takes
    what came until the stop.
    """

    def __init__(
        self, name: str, round_: Callable[[], Awaitable[object]], interval_s: float, *, once_more: bool = False
    ) -> None:
        self._name = name
        self._round = round_
        self._interval_s = interval_s
        self._once_more = once_more
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._log = logger(name)

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=self._name)

    async def stop(self, grace_s: float) -> None:
        self._stopping.set()
        if self._task is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._task

    async def _run(self) -> None:
        while not (last := self._stopping.is_set()) or self._once_more:
            try:
                await self._round()
            except MeshError as error:
                self._log.warning("this round came to nothing", reason=error.reason)
            if last:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._stopping.wait()
