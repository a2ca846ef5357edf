"""Takes an event into the spool as durably as its contract says, before the answer leaves."""

import hashlib

from mesh.contract import Contract
from mesh.contract.model import Durability
from mesh.errors import Unavailable
from public_edge.spool.errors import SpoolError
from public_edge.spool.event import Kind, pack
from public_edge.spool.spool import Spool


def derive(text: str) -> bytes:
    """32 bytes that follow from `text` alone: a request that a gateway repeats gets the same ids and draws."""
    return hashlib.sha256(text.encode()).digest()


class Recorder:
    def __init__(self, spool: Spool, contract: Contract) -> None:
        self._spool = spool
        # Both by the number of the kind.
        self._durable = [False] * (max(Kind) + 1)
        self._quorum = [False] * len(self._durable)
        self.recorded = [0] * len(self._durable)
        # Of those that Kafka was to have first: answered when this node's disk alone had them.
        self.alone = [0] * len(self._durable)
        for kind in Kind:
            durability = contract.events[kind.message].durability
            self._durable[kind] = durability >= Durability.DURABLE
            self._quorum[kind] = durability is Durability.QUORUM

    def waits(self, kind: Kind) -> bool:
        """Whether the contract wants this event on the disk before the answer leaves."""
        return self._durable[kind]

    def write(self, kind: Kind, event_id: bytes, traceparent: str, body: bytes) -> int | None:
        """Write the event, so that it outlives the process; None when it was shed, which is counted.

        The answer to a durable event must wait for `synced` with the sequence that this returns.

        Raises Unavailable when a durable event cannot be taken, or the disk has failed.
        """
        try:
            sequence = self._spool.append(pack(kind, event_id, traceparent, body), durable=self._durable[kind])
        except SpoolError as error:
            raise _refused() from error
        self.recorded[kind] += 1
        return sequence

    async def synced(self, kind: Kind, sequence: int | None) -> None:
        """Return once the event is as safe as its contract asks, as far as Kafka can be reached for it.

        Raises Unavailable when the disk has failed.
        """
        if sequence is None or not self._durable[kind]:
            return
        try:
            await self._spool.synced(sequence)
        except SpoolError as error:
            raise _refused() from error
        if self._quorum[kind] and not await self._spool.quorum.wait(sequence):
            self.alone[kind] += 1


def _refused() -> Unavailable:
    return Unavailable("EVENT_NOT_ACCEPTED", "the event cannot be recorded now", remedy="try again in a moment")
