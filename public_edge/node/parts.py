"""What lives beside a node's servers, as services of the process: started in order, drained in reverse."""

import asyncio
import contextlib
import gc
from pathlib import Path

from mesh.logs import logger
from public_edge.clicks import keys
from public_edge.clicks.domain import Signer
from public_edge.clicks.keys import ClickKeysError
from public_edge.node import large_pages
from public_edge.snapshot.consumer import SnapshotConsumer
from public_edge.spool.shipper import Shipper
from public_edge.spool.spool import Spool

KEYS_EVERY_S = 2.0
SNAPSHOT_WAIT_S = 120.0
# Python's own pace, where other processes look for cycles later (mesh/process.py): what a decision leaves stays within
# the processor's caches then (ADR 11).
COLLECT_AFTER = (700, 10, 10)


class SpoolService:
    """Closes the spool after everything that writes to it, and after the shipper has had its time."""

    def __init__(self, spool: Spool, shipper: Shipper) -> None:
        self._spool = spool
        self._shipper = shipper

    async def start(self) -> None:
        self._shipper.start()

    async def stop(self, grace_s: float) -> None:
        await asyncio.to_thread(self._shipper.stop, max(0.1, grace_s - 1.0))
        await asyncio.to_thread(self._spool.close)


class SnapshotService:
    """Holds the start until there is a snapshot: a node without one has nothing to answer."""

    def __init__(self, consumer: SnapshotConsumer) -> None:
        self._consumer = consumer
        self._log = logger("snapshot")

    async def start(self) -> None:
        self._consumer.start()
        if not await asyncio.to_thread(self._consumer.ready.wait, SNAPSHOT_WAIT_S):
            raise TimeoutError(f"no snapshot within {SNAPSHOT_WAIT_S:.0f} s: neither on disk nor from Kafka")
        # The snapshot stays: looking through it at every full collection would cost more, the more campaigns there are.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*COLLECT_AFTER)
        moved = await asyncio.to_thread(large_pages.collapse)
        self._log.info("snapshot ready", large_pages_mib=moved >> 20)

    async def stop(self, grace_s: float) -> None:
        await asyncio.to_thread(self._consumer.stop, grace_s)


class ClickKeysService:
    """Follows the rotation of the click keys."""

    def __init__(self, directory: Path, signer: Signer) -> None:
        self._directory = directory
        self._signer = signer
        self._task: asyncio.Task[None] | None = None
        self._log = logger("click-keys")

    async def start(self) -> None:
        self._task = asyncio.create_task(self._follow(), name="click-keys")

    async def stop(self, grace_s: float) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(KEYS_EVERY_S)
            try:
                self._signer.ring = keys.load(self._directory)
            except (ClickKeysError, OSError) as error:
                self._log.error("click keys unusable, the last good ones stay in use", why=str(error))
