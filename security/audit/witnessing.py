"""Has a witness cosign each new checkpoint. Away, it is caught up with later; refused, the log says so loudly."""

from collections.abc import Sequence
from typing import Final, Protocol

from opentelemetry.metrics import Observation

from mesh import telemetry
from mesh.errors import MeshError
from mesh.logs import logger
from security.audit.note import NoteRejected
from security.audit.store import AuditStore
from security.audit.witness_client import OtherSize, WitnessAway, WitnessRefused

_ASKED_MAX: Final = 3


class WitnessPort(Protocol):
    async def add_checkpoint(self, old_size: int, proof: Sequence[bytes], note: str) -> str:
        """The cosignature line. Raises WitnessAway, WitnessRefused, OtherSize."""


class Witnessing:
    """Signing does not wait for it: each zone goes on when the other is away."""

    def __init__(self, store: AuditStore, witness: WitnessPort, name: str) -> None:
        self._store = store
        self._witness = witness
        self._name = name
        self._witnessed = 0
        self._behind = 0
        self._fault = ""
        self._log = logger("witnessing")
        meter = telemetry.meter()
        meter.create_observable_gauge("audit.witness.behind", [lambda _: [Observation(self._behind)]])
        meter.create_observable_gauge(
            "audit.witness.refused", [lambda _: [Observation(int(self._fault.startswith("refused")))]]
        )

    async def attempt(self) -> None:
        """A round, whatever becomes of it: what is wrong is said once, and when it is over."""
        try:
            await self.round()
            fault = ""
        except (WitnessRefused, OtherSize, NoteRejected) as refused:
            fault = f"refused: {refused}"
        except (WitnessAway, MeshError) as error:
            fault = f"away: {error}"
        if fault != self._fault:
            self._fault = fault
            if fault:
                self._log.error("checkpoints are not cosigned", fault=fault)
            else:
                self._log.info("checkpoints are cosigned again")

    async def round(self) -> None:
        """Have the newest checkpoint cosigned, if it is not.

        Raises WitnessAway, MeshError, WitnessRefused (the log is not what the witness saw), OtherSize (it saw more).
        """
        newest = await self._store.checkpoints(0, 1, newest_first=True)
        if not newest or newest[0].tree_size == self._witnessed:
            return
        size, note = newest[0].tree_size, newest[0].note
        self._behind = size - self._witnessed
        for _ in range(_ASKED_MAX):
            proof = await self._store.prove_growth(self._witnessed, size)
            try:
                line = await self._witness.add_checkpoint(self._witnessed, proof, note)
            except OtherSize as other:
                if other.size > size:
                    raise
                self._witnessed = other.size
                continue
            name = line.removeprefix("— ").partition(" ")[0]
            if name != self._name:
                raise WitnessRefused(f"the answer is signed by {name}, not by {self._name}")
            await self._store.keep_cosignature(size, name, line)
            self._witnessed, self._behind = size, 0
            return
