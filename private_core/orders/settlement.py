"""Ends a cancelling that a call left undecided: its process died, or payments was away and nobody called again."""

import asyncio
import contextlib
from typing import Final

from mesh.errors import MeshError
from mesh.logs import logger
from private_core.orders import domain
from private_core.orders.store import OrderStore

# Longer than the longest deadline of a call, so that whoever began it is gone.
ABANDONED_S: Final = 10.0
_ROUND_MAX: Final = 100


class Settlement:
    """A service of the orders process. Harmless in several replicas at once, and beside the call itself."""

    def __init__(
        self, store: OrderStore, payments: domain.Payments, interval_s: float, abandoned_s: float = ABANDONED_S
    ) -> None:
        self._store = store
        self._payments = payments
        self._interval_s = interval_s
        self._abandoned_s = abandoned_s
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._log = logger("settlement")

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="settlement")

    async def stop(self, grace_s: float) -> None:
        self._stopping.set()
        if self._task is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._task

    async def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                await self.round()
            except MeshError as error:
                self._log.warning("nothing can be settled now", reason=error.reason)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._stopping.wait()

    async def round(self) -> int:
        """End what was abandoned, as the call would have; how many were. Raises MeshError when payments is away."""
        ended = 0
        for order_id, version in await self._store.undecided(self._abandoned_s, _ROUND_MAX):
            end = domain.decided(await self._payments.any_live(order_id))
            if await self._store.end_cancel(order_id, version, end):
                ended += 1
                self._log.info("settled", order=order_id, state=end)
        return ended
