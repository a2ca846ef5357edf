"""An answer waits for Kafka while Kafka answers, and for a Kafka that is away only once."""

import asyncio
import threading

from public_edge.spool.quorum import Quorum

LONG_S = 60.0


async def waiting(quorum: Quorum, sequence: int, limit_s: float = LONG_S) -> "asyncio.Task[bool]":
    """A task that has begun to wait."""
    task = asyncio.create_task(quorum.wait(sequence, limit_s))
    await asyncio.sleep(0)
    assert not task.done()
    return task


async def test_an_answer_waits_until_kafka_has_everything_up_to_its_event() -> None:
    quorum = Quorum(3)
    assert await quorum.wait(3)
    later, sooner = await waiting(quorum, 7), await waiting(quorum, 5)
    told = threading.Thread(target=quorum.reached, args=(6,))
    told.start()
    assert await sooner
    assert not later.done()
    quorum.reached(7)
    assert await later
    told.join()


async def test_a_kafka_that_is_away_is_waited_for_once_and_again_when_it_is_back() -> None:
    quorum = Quorum(0)
    assert not await quorum.wait(1, 0.001)
    assert not await asyncio.wait_for(quorum.wait(2, LONG_S), LONG_S / 2)
    quorum.reached(1)
    back = await waiting(quorum, 2)
    quorum.reached(2)
    assert await back


async def test_one_who_gave_up_waiting_keeps_nobody_else() -> None:
    quorum = Quorum(0)
    gone, stays = await waiting(quorum, 1), await waiting(quorum, 1)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    quorum.reached(1)
    assert await stays
