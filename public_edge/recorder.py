"""Takes an event into the spool as durably as its contract says, before the answer leaves."""

import hashlib
from collections.abc import Mapping

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
        self._durable: Mapping[Kind, bool] = {
            kind: contract.events[kind.message].durability is Durability.DURABLE for kind in Kind
        }
        self.recorded = dict.fromkeys(Kind, 0)

    async def record(self, kind: Kind, event_id: bytes, traceparent: str, body: bytes) -> None:
        """Return once the event is as safe as its contract asks. A bounded event may be shed, and is counted then.

        Raises Unavailable when a durable event cannot be taken, or the disk has failed.
        """
        durable = self._durable[kind]
        try:
            sequence = self._spool.append(pack(kind, event_id, traceparent, body), durable=durable)
            if durable and sequence is not None:
                await self._spool.synced(sequence)
        except SpoolError as error:
            raise Unavailable(
                "EVENT_NOT_ACCEPTED", "the event cannot be recorded now", remedy="try again in a moment"
            ) from error
        self.recorded[kind] += 1
