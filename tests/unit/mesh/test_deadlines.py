"""What runs past its deadline ends then, and nothing else does."""

import asyncio
import time

import pytest

from mesh.deadlines import Deadlines, until


async def runs(deadlines: Deadlines, within_s: float, takes_s: float) -> str:
    with until(deadlines, time.monotonic() + within_s):
        await asyncio.sleep(takes_s)
    return "done"


async def test_each_ends_at_its_own_deadline_in_whatever_order_they_came() -> None:
    deadlines = Deadlines()
    running = [asyncio.create_task(runs(deadlines, within_s, 120)) for within_s in (0.2, 0.05, 60, 0.1)]
    ended, others = await asyncio.wait(running, timeout=30, return_when=asyncio.FIRST_COMPLETED)
    while len(ended) < 3:
        more, others = await asyncio.wait(others, timeout=30, return_when=asyncio.FIRST_COMPLETED)
        ended |= more
    assert {running.index(task) for task in ended} == {0, 1, 3}
    assert all(isinstance(task.exception(), TimeoutError) for task in ended)
    running[2].cancel()
    with pytest.raises(asyncio.CancelledError):
        await running[2]


async def test_what_is_done_in_time_is_left_alone() -> None:
    deadlines = Deadlines()
    assert await runs(deadlines, 60, 0) == "done"
    task = asyncio.current_task()
    assert task is not None
    with pytest.raises(TimeoutError):
        await runs(deadlines, 0.01, 120)
    assert task.cancelling() == 0
    assert await runs(deadlines, 60, 0) == "done"


async def test_who_is_cancelled_by_others_too_is_cancelled_and_not_late() -> None:
    late = asyncio.Event()

    async def stubborn() -> None:
        with until(Deadlines(), time.monotonic() + 0.01):
            try:
                await asyncio.sleep(120)
            except asyncio.CancelledError:
                late.set()
                await asyncio.sleep(120)

    task = asyncio.create_task(stubborn())
    await asyncio.wait_for(late.wait(), 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_answer_that_came_with_the_deadline_is_an_answer() -> None:
    async def stubborn() -> str:
        with until(Deadlines(), time.monotonic() + 0.01):
            try:
                await asyncio.sleep(120)
            except asyncio.CancelledError:
                return "done all the same"
        return "never"

    assert await asyncio.create_task(stubborn()) == "done all the same"
