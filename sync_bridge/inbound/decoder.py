"""Kafka records into a batch: deny by default, and what is refused is kept."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from sync_bridge.inbound.domain import Partition, Record, Refused, trace_of
from sync_bridge.inbound.store import Batch
from sync_bridge.inbound.tables import Table

# One acceptance time of so many is kept, for the freshness histogram.
SAMPLE_EVERY: Final = 64
_ORIGIN: Final = b"public"
_FROM_THE_EDGE: Final = ("origin", _ORIGIN)
# Beyond every offset.
_NOT_HELD: Final = 1 << 63


class Decoder:
    """Knows the topics of the contract and the one kind of event that each may carry."""

    def __init__(self, tables: Mapping[str, Table]) -> None:
        self._tables = dict(tables)
        self._kinds = {topic: table.message.DESCRIPTOR.full_name.encode() for topic, table in tables.items()}

    def batch(self, messages: Sequence[Record], positions: Mapping[Partition, int]) -> Batch:
        """The records that are this worker's to land, given where each partition goes on.

        Those of partitions that it no longer holds are left out.
        """
        batch = Batch()
        if not messages:
            return batch
        topic, partition, end, count, last = "", -1, -1, 0, messages[0]
        table, kind = next(iter(self._tables.values())), b""
        for message in messages:
            # Records come in runs of one partition: what is the same for all of a run is looked up once.
            if message.partition() != partition or message.topic() != topic:
                if count:
                    batch.close(topic, partition, end, count, last)
                topic, partition, count = message.topic(), message.partition(), 0
                place = (topic, partition)
                end = batch.ends.get(place, positions.get(place, _NOT_HELD))
                table, kind = self._tables[topic], self._kinds[topic]
                rows = batch.rows.setdefault(table, []) if end != _NOT_HELD else []
            offset = message.offset()
            if offset < end:
                continue
            end, count, last = offset + 1, count + 1, message
            try:
                payload, trace_id = _admit(message, kind)
                values = table.values(payload, trace_id, partition, offset)
            except Refused as refused:
                batch.refused.append((message, refused))
                continue
            rows.append((values, message))
        if count:
            batch.close(topic, partition, end, count, last)
        batch.rows = {table: rows for table, rows in batch.rows.items() if rows}
        for table, rows in batch.rows.items():
            # Of a row that is refused it is found out later, with those that the database refuses.
            with suppress(Refused):
                batch.copies[table] = table.copies([values for values, _ in rows])
            batch.accepted_us += [values[table.accepted] for values, _ in rows[::SAMPLE_EVERY]]
        return batch

    def table(self, topic: str) -> Table:
        """Raises KeyError for a topic that is not inward."""
        return self._tables[topic]

    def admit(self, message: Record) -> tuple[bytes, str]:
        """The record's payload and trace id. Raises Refused for what its topic may not carry."""
        return _admit(message, self._kinds[message.topic()])


def _admit(message: Record, kind: bytes) -> tuple[bytes, str]:
    headers = message.headers() or []
    # As the edge writes them. Looking where they should be costs a fraction of looking for them.
    if len(headers) >= 5 and headers[1] == ("kind", kind) and headers[2] == _FROM_THE_EDGE:
        name, traceparent = headers[-1]
        trace_id = trace_of(traceparent) if name == "traceparent" else ""
    else:
        found = dict(headers)
        if found.get("kind") != kind:
            raise Refused("UNKNOWN_KIND", f"the header kind is not {kind.decode()}")
        if found.get("origin") != _ORIGIN:
            # What the private zone sent itself would go round in a circle.
            raise Refused("FOREIGN_ORIGIN", "the header origin is not public")
        trace_id = trace_of(found.get("traceparent"))
    payload = message.value()
    if payload is None:
        raise Refused("UNREADABLE", "the record has no value")
    return payload, trace_id
