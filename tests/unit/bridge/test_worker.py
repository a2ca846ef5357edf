"""The bridge tries again what passes, begins anew when its leaf rotates, and ends its process when nothing helps."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest
from confluent_kafka import KafkaError, KafkaException

from mesh.errors import DataLoss
from mesh.process import Process
from sync_bridge.kafka import BridgeSettings
from sync_bridge.worker import Interrupted, Worker

SETTINGS = cast(BridgeSettings, SimpleNamespace(bridge_backoff_s=0.001, bridge_backoff_s_max=0.002, bridge_poll_s=0.01))


class Host:
    """What a worker needs of its process."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self.rotated: list[Callable[[Any], None]] = []
        self.identity = SimpleNamespace(on_change=self.rotated.append)


class Sessions:
    """Each session raises the next of `ends`, then those after it run until they are stopped."""

    def __init__(self, *ends: BaseException) -> None:
        self.ends = list(ends)
        self.opened = self.closed = 0
        self.running = threading.Event()

    def open(self) -> "Sessions":
        self.opened += 1
        return self

    def run(self, stop: threading.Event) -> None:
        if self.ends:
            raise self.ends.pop(0)
        self.running.set()
        assert stop.wait(10)

    def close(self) -> None:
        self.closed += 1


async def started(sessions: Sessions) -> tuple[Host, Worker]:
    host = Host()
    worker = Worker("bridge-test", cast(Process, host), SETTINGS, sessions.open)
    await worker.start()
    return host, worker


async def soon(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 10)


async def within(wait: Awaitable[object]) -> None:
    async with asyncio.timeout(10):
        await wait


async def test_what_passes_is_tried_again_with_a_new_session() -> None:
    sessions = Sessions(
        psycopg.OperationalError("away"), KafkaException(KafkaError(KafkaError._TRANSPORT)), Interrupted("fenced")
    )
    host, worker = await started(sessions)
    await soon(sessions.running)
    await worker.stop(5)
    assert (sessions.opened, sessions.closed) == (4, 4)
    assert worker.failure is None
    await within(host.stopping.wait())


async def test_a_rotated_leaf_ends_the_session_and_begins_another() -> None:
    sessions = Sessions()
    host, worker = await started(sessions)
    await soon(sessions.running)
    sessions.running.clear()
    for callback in host.rotated:
        callback(None)
    await soon(sessions.running)
    await worker.stop(5)
    assert (sessions.opened, sessions.closed) == (2, 2)


@pytest.mark.parametrize(
    "end",
    [DataLoss("RECORDS_MISSING", "gone"), psycopg.errors.UndefinedColumn("no such column"), ValueError("a fault")],
)
async def test_what_trying_again_cannot_mend_ends_the_process(end: BaseException) -> None:
    sessions = Sessions(end)
    host, worker = await started(sessions)
    await within(host.stopping.wait())
    await worker.stop(5)
    assert worker.failure is end
    assert (sessions.opened, sessions.closed) == (1, 1)
