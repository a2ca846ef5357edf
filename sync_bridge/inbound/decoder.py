"""Kafka records into a batch: deny by default, and what is refused is kept."""

from collections.abc import Mapping, Sequence

from sync_bridge.inbound.domain import Claim, Partition, Record, Refused, trace_of
from sync_bridge.inbound.store import Batch
from sync_bridge.inbound.tables import Table

# Acceptance times kept of one batch, for the freshness histogram.
SAMPLES_MAX = 64


class Decoder:
    """Knows the topics of the contract and the one kind of event that each may carry."""

    def __init__(self, tables: Mapping[str, Table]) -> None:
        self._tables = dict(tables)
        self._kinds = {topic: table.message.DESCRIPTOR.full_name.encode() for topic, table in tables.items()}

    def batch(self, messages: Sequence[Record], claims: Mapping[Partition, Claim]) -> Batch:
        """The records that are this worker's to land. Those of partitions it no longer holds are left out."""
        batch = Batch()
        every = max(1, len(messages) // SAMPLES_MAX)
        for index, message in enumerate(messages):
            topic, partition, offset = message.topic(), message.partition(), message.offset()
            place = (topic, partition)
            claim = claims.get(place)
            if claim is None or offset < batch.ends.get(place, claim.next_offset):
                continue
            batch.ends[place] = offset + 1
            batch.counts[place] = batch.counts.get(place, 0) + 1
            table = self._tables[topic]
            try:
                payload, trace_id = self._admit(message, self._kinds[topic])
                line, accepted_us = table.line(payload, trace_id, partition, offset)
            except Refused as refused:
                batch.refused.append((message, refused))
                continue
            batch.rows.setdefault(table, []).append((line, message))
            if index % every == 0:
                batch.accepted_us.append(accepted_us)
        return batch

    def _admit(self, message: Record, kind: bytes) -> tuple[bytes, str]:
        """The record's payload and trace id. Raises Refused for what this topic may not carry."""
        headers = dict(message.headers() or ())
        if headers.get("kind") != kind:
            raise Refused("UNKNOWN_KIND", f"the header kind is not {kind.decode()}")
        if headers.get("origin") != b"public":
            # What the private zone sent itself would go round in a circle.
            raise Refused("FOREIGN_ORIGIN", "the header origin is not public")
        payload = message.value()
        if payload is None:
            raise Refused("UNREADABLE", "the record has no value")
        return payload, trace_of(headers.get("traceparent"))
