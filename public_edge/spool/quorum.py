"""Who waits until Kafka has an event, for events that the contract wants there before the answer."""

import asyncio
import contextlib
from collections import deque
from typing import Final

# The spool has the event on its disk by then, so an answer never waits longer for Kafka than this.
WAIT_S: Final = 1.0


class Quorum:
    """`wait` belongs to the event loop, `reached` to the shipper's thread."""

    def __init__(self, reached: int) -> None:
        """reached: the sequence up to which Kafka is known to have everything."""
        self._reached = reached
        # Nobody waits for a Kafka that kept somebody waiting in vain, until it acknowledges again.
        self._away = False
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None

    def reached(self, sequence: int) -> None:
        """Kafka has acknowledged everything up to `sequence`."""
        self._reached = max(self._reached, sequence)
        self._away = False
        if self._waiters and self._loop is not None:
            # The loop may just have ended, and with it whoever waited.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._settle)

    async def wait(self, sequence: int, limit_s: float = WAIT_S) -> bool:
        """Whether Kafka has the event, as soon as it has, or when it cannot be reached for `limit_s`."""
        if self._reached < sequence and not self._away:
            self._loop = loop = asyncio.get_running_loop()
            waiter = loop.create_future()
            # Enlisted first and looked at again afterwards, so that nothing said in between is missed.
            self._waiters.append((sequence, waiter))
            try:
                if self._reached < sequence:
                    await asyncio.wait_for(waiter, limit_s)
            except TimeoutError:
                self._away = self._reached < sequence
        return self._reached >= sequence

    def _settle(self) -> None:
        left = []
        while self._waiters:
            sequence, waiter = self._waiters.popleft()
            if waiter.done():
                continue
            if sequence <= self._reached:
                waiter.set_result(None)
            else:
                left.append((sequence, waiter))
        self._waiters.extend(left)
