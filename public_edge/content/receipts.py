"""What became of an item that was sent to one reader, whichever way it is told."""

from typing import Final

from isthmus.content.v1 import content_pb2
from isthmus.events.v1 import events_pb2

from mesh.clock import Clock
from public_edge.recorder import Recorder, derive
from public_edge.request import Origin
from public_edge.spool.event import Kind

STEPS: Final = {
    name.removeprefix("RECEIPT_STEP_"): name.removeprefix("RECEIPT_STEP_").lower()
    for name, number in content_pb2.ReceiptStep.items()
    if number
}


class Receipts:
    def __init__(self, recorder: Recorder, clock: Clock, node: str) -> None:
        self._recorder = recorder
        self._clock = clock
        self._node = node

    async def tell(self, slug: str, delivery_id: str, step: str, source_time_us: int, origin: Origin) -> None:
        """One event, however often it is told, and whichever node it is told to. step: one of STEPS.

        The item need not be there: it may have gone since it was sent. Raises Unavailable (not recorded).
        """
        now_us = self._clock.now_us()
        told, crawler = STEPS[step], origin.bot is not None
        # What a crawler did is another event, so that it takes no reader's place.
        event_id = derive(f"content-receipt|{slug}|{delivery_id}|{told}|{crawler}")[:16]
        event = events_pb2.ContentReceipt(
            event_id=event_id.hex(),
            source_time_us=source_time_us or now_us,
            accepted_time_us=now_us,
            node=self._node,
            slug=slug,
            delivery_id=delivery_id,
            step=told,
            crawler=crawler,
        )
        sequence = self._recorder.write(Kind.CONTENT_RECEIPT, event_id, origin.traceparent, event.SerializeToString())
        await self._recorder.synced(Kind.CONTENT_RECEIPT, sequence)
