"""Grows the tree while the process runs, and hands each checkpoint to those who keep it."""

import asyncio
from collections.abc import Sequence
from typing import Final

from opentelemetry.metrics import Observation

from mesh import telemetry
from mesh.errors import MeshError
from mesh.logs import logger
from security.audit.checkpoint import Checkpoint, CheckpointSink
from security.audit.note import NoteRejected, Verifier
from security.audit.tree_store import LEAVES_MAX, LogDamaged, TreeStore

_ROUNDS_MAX: Final = 1000


class Sequencer:
    """When the log is damaged it signs nothing, says so, and looks again."""

    def __init__(self, store: TreeStore, verifier: Verifier, sinks: Sequence[CheckpointSink]) -> None:
        self._store = store
        self._verifier = verifier
        self._sinks = sinks
        self._floor: Checkpoint | None = None
        # What each sink keeps as its newest; None: not known yet.
        self._kept: list[str | None] = [None] * len(sinks)
        self._fault = ""
        self._log = logger("sequencer")
        meter = telemetry.meter()
        size = lambda _: [Observation(self._floor.size if self._floor else 0)]  # noqa: E731
        meter.create_observable_gauge("audit.tree.size", [size])
        meter.create_observable_gauge("audit.sequencer.halted", [lambda _: [Observation(int(bool(self._fault)))]])

    async def attempt(self) -> None:
        """A round, whatever becomes of it: what is wrong is said once, and when it is over."""
        try:
            await self.round()
            fault = ""
        except (LogDamaged, NoteRejected) as error:
            fault = f"damaged: {error}"
        except (MeshError, OSError) as error:
            fault = f"away: {error}"
        if fault != self._fault:
            self._fault = fault
            if fault:
                self._log.error("audit tree does not grow", fault=fault)
            else:
                self._log.info("audit tree grows again")

    async def round(self) -> None:
        """Give every record that waits a leaf, sign, and hand the checkpoint out.

        Raises LogDamaged, NoteRejected (a sink keeps what we did not sign), MeshError, OSError.
        """
        await self._look_up()
        for _ in range(_ROUNDS_MAX):
            signed = await self._store.grow(self._floor)
            if signed is None:
                return
            self._floor = signed.checkpoint
            for at, sink in enumerate(self._sinks):
                if self._kept[at] != signed.note:
                    await asyncio.to_thread(sink.append, signed.note)
                    self._kept[at] = signed.note
            if signed.grown < LEAVES_MAX:
                return

    async def _look_up(self) -> None:
        """Learn what was handed out before this process began: the log must not fall behind it."""
        for at, sink in enumerate(self._sinks):
            if self._kept[at] is None:
                note = await asyncio.to_thread(sink.newest)
                if note is not None:
                    handed_out = Checkpoint.open(note, self._verifier)
                    if self._floor is None or handed_out.size > self._floor.size:
                        self._floor = handed_out
                self._kept[at] = note or ""
