"""Open-loop arrivals: requests come when their time has come, however slow the answers to earlier ones are."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterator

# With more unanswered at once the generator itself would be what is slow; such arrivals are refused, and counted.
IN_FLIGHT_MAX = 2000


def poisson(rate_per_s: float, seed: int) -> Iterator[float]:
    """Seconds from the beginning at which requests arrive, for ever. The same seed gives the same times."""
    clock, chance = 0.0, random.Random(seed)  # noqa: S311 (no secret)
    while True:
        clock += chance.expovariate(rate_per_s)
        yield clock


class Arrivals:
    """Calls `send(due)` for each arrival until `stop`; `due` is the loop's time at which it should have been sent.

    Latency counted from `due` holds the time that a request had to wait for the generator (no coordinated omission).
    """

    def __init__(self, times_s: Iterator[float], send: Callable[[float], Awaitable[None]]) -> None:
        self._times_s = times_s
        self._send = send
        self._stopping = asyncio.Event()
        self._calls: set[asyncio.Task[None]] = set()
        self._errors: list[BaseException] = []
        self.refused = 0

    async def run(self) -> None:
        """Until `stop`; then waits for the answers to what is under way. Raises what `send` raised."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        for after_s in self._times_s:
            due = began + after_s
            if (wait_s := due - loop.time()) > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), wait_s)
            if self._stopping.is_set():
                break
            if len(self._calls) >= IN_FLIGHT_MAX:
                self.refused += 1
                # A generator that is late has many arrivals at once; others must run too.
                await asyncio.sleep(0)
                continue
            call = asyncio.create_task(self._begin(due))
            self._calls.add(call)
            call.add_done_callback(self._answered)
        if self._calls:
            await asyncio.wait(self._calls)
        if self._errors:
            raise self._errors[0]

    async def _begin(self, due: float) -> None:
        await self._send(due)

    def _answered(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        if not call.cancelled() and (error := call.exception()) is not None:
            # No outcome of a call but a fault of the generator: it ends the run, as `run` says.
            self._errors.append(error)
            self._stopping.set()

    def stop(self) -> None:
        self._stopping.set()
