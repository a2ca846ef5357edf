"""Where each inward event lands: one list of columns, from which the staging table, COPY and INSERT all follow."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any, Final

from google.protobuf.message import DecodeError, Message
from isthmus.events.v1 import events_pb2

from mesh.contract import Contract
from mesh.contract.model import Direction
from sync_bridge.inbound import binary
from sync_bridge.inbound.domain import Refused
from sync_bridge.ledger.conservation import MINUTE_US, Cell

# Events that came before, and events that came twice in what is staged, leave one row, the first.
_INSERT: Final = """
    WITH came AS (
        SELECT record_partition, node, date_trunc('minute', accepted_time) AS minute, count(*) AS records
        FROM {staging} GROUP BY 1, 2, 3
    ), fresh AS (
        INSERT INTO warehouse.{table}_id (event_id) SELECT DISTINCT event_id FROM {staging}
        ON CONFLICT DO NOTHING RETURNING event_id
    ), landed AS (
        INSERT INTO warehouse.{table} ({names})
        SELECT DISTINCT ON (event_id) {names} FROM {staging} JOIN fresh USING (event_id)
        ORDER BY event_id, record_partition, record_offset
        RETURNING record_partition, node, accepted_time
    ), rows AS (
        SELECT record_partition, node, date_trunc('minute', accepted_time) AS minute, count(*) AS rows
        FROM landed GROUP BY 1, 2, 3
    ), moved AS (
        SELECT record_partition, node, minute, coalesce(rows, 0) AS landed, records - coalesce(rows, 0) AS duplicates
        FROM came LEFT JOIN rows USING (record_partition, node, minute)
    ), entered AS (
        INSERT INTO bridge.ledger AS held (node, topic, partition, minute, landed, duplicates)
        SELECT node, %s, record_partition, minute, landed, duplicates FROM moved
        ON CONFLICT (node, topic, partition, minute) DO UPDATE
            SET landed = held.landed + excluded.landed, duplicates = held.duplicates + excluded.duplicates
    )
    SELECT record_partition, sum(landed)::bigint FROM moved GROUP BY record_partition
"""
_INSERT_AGAIN: Final = """
    WITH fresh AS (
        INSERT INTO warehouse.{table}_id (event_id) SELECT DISTINCT event_id FROM {staging}
        ON CONFLICT DO NOTHING RETURNING event_id
    )
    INSERT INTO warehouse.{table} ({names})
    SELECT DISTINCT ON (event_id) {names} FROM {staging} JOIN fresh USING (event_id)
    ORDER BY event_id, record_partition, record_offset
"""


@dataclass(frozen=True, slots=True)
class Column:
    """A column, its type, and the field it comes from."""

    name: str
    kind: str
    field: str


def _columns(kind: str, *names: str) -> tuple[Column, ...]:
    return tuple(Column(name, kind, name) for name in names)


def _instants(*names: str) -> tuple[Column, ...]:
    return tuple(Column(name, "timestamptz", f"{name}_us") for name in names)


_EVENT: Final = (
    *_columns("uuid", "event_id"),
    *_instants("source_time", "accepted_time"),
    *_columns("text", "node"),
    *_columns("boolean", "crawler"),
)
_PLACED: Final = _columns("text", "slot", "campaign_id", "creative_id")
# Not of the event but of its record.
_ORIGIN: Final = (
    *_columns("uuid", "trace_id"),
    *_columns("integer", "record_partition"),
    *_columns("bigint", "record_offset"),
)


@dataclass(frozen=True, eq=False)
class Table:
    """One event's table in the schema `warehouse`, with that of its ids, `<name>_id`."""

    name: str
    message: type[Message]
    # The first one is the event's id; an object is the last one.
    columns: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that the bridge writes, in the order of COPY."""
        return tuple(column.name for column in self._written)

    @property
    def staging(self) -> str:
        return f"staged_{self.name}"

    @property
    def create_staging(self) -> str:
        columns = ", ".join(f"{column.name} {column.kind}" for column in self._written)
        return f"CREATE TEMPORARY TABLE {self.staging} ({columns}) ON COMMIT DELETE ROWS"

    @property
    def copy_staged(self) -> str:
        return self._copy(self.staging)

    @cached_property
    def copy_ids(self) -> str:
        """Fails where an event was there already, with a unique violation."""
        return f"COPY warehouse.{self.name}_id (event_id) FROM STDIN (FORMAT binary)"

    @cached_property
    def copy_rows(self) -> str:
        return self._copy(f"warehouse.{self.name}")

    @cached_property
    def insert(self) -> str:
        """What is staged. Parameter: the topic. Returns (partition, rows landed) per partition; what is missing was
        there already.

        The same statement enters both into the ledger, per node and minute of acceptance.
        """
        return _INSERT.format(table=self.name, staging=self.staging, names=", ".join(self.names))

    @property
    def shadow(self) -> str:
        return f"bridge.shadow_{self.name}"

    def insert_again(self, *, shadow: bool) -> str:
        """For records that were counted when they came the first time: rows alone, and nothing in the ledger."""
        names = ", ".join(self.names)
        if shadow:
            return f"INSERT INTO {self.shadow} ({names}) SELECT {names} FROM {self.staging} ON CONFLICT DO NOTHING"  # noqa: S608
        return _INSERT_AGAIN.format(table=self.name, staging=self.staging, names=names)

    @cached_property
    def compare(self) -> str:
        """Rows of the shadow, those that the table has not, those that it has with other values."""
        told = [column.name for column in self.columns if column.name != "event_id"]
        one, other = (", ".join(f"{side}.{name}" for name in told) for side in ("seen", "live"))
        return (
            "SELECT count(*), count(*) FILTER (WHERE live.event_id IS NULL),"  # noqa: S608
            f" count(*) FILTER (WHERE live.event_id IS NOT NULL AND ({one}) IS DISTINCT FROM ({other}))"
            f" FROM {self.shadow} AS seen LEFT JOIN warehouse.{self.name} AS live USING (event_id)"
        )

    @property
    def _written(self) -> tuple[Column, ...]:
        return (*self.columns, *_ORIGIN)

    def _copy(self, into: str) -> str:
        return f"COPY {into} ({', '.join(self.names)}) FROM STDIN (FORMAT binary)"

    @cached_property
    def _fields(self) -> Callable[[Message], tuple[Any, ...]]:
        return attrgetter(*(column.field for column in self.columns if column.kind != "jsonb"))

    @cached_property
    def _object(self) -> str:
        """The field of the last column where that is an object."""
        return self.columns[-1].field if self.columns[-1].kind == "jsonb" else ""

    @cached_property
    def _parse(self) -> Callable[[bytes], Message]:
        return self.message.FromString

    @cached_property
    def accepted(self) -> int:
        """Where in a record's values the time of acceptance stands, in microseconds."""
        return self.names.index("accepted_time")

    def values(self, payload: bytes, trace_id: str, partition: int, offset: int) -> tuple[Any, ...]:
        """The record's values in the order of COPY, of which none keeps the message alive.

        Raises Refused when the payload is not such a message.
        """
        try:
            message = self._parse(payload)
            if self._object:
                found = getattr(message, self._object)
                # Not dict(found): a protobuf map is many times slower through its mapping interface.
                object_ = {name: found[name] for name in found}
                return *self._fields(message), object_, trace_id, partition, offset
            return *self._fields(message), trace_id, partition, offset
        except DecodeError as error:
            raise Refused("UNREADABLE", f"not a {self.message.DESCRIPTOR.full_name}: {error}") from error

    def copies(self, rows: Sequence[tuple[Any, ...]]) -> "Copies":
        """What COPY reads for these rows. Raises Refused where one of them has a value that is not of its type."""
        columns = list(zip(*rows, strict=True))
        fields = [binary.encode(column.kind, values) for column, values in zip(self._written, columns, strict=True)]
        partition, node = (columns[self.names.index(name)] for name in ("record_partition", "node"))
        return Copies(binary.copied(fields[:1]), binary.copied(fields), _cells(partition, node, columns[self.accepted]))


def _cells(partitions: Sequence[int], nodes: Sequence[str], accepted_us: Sequence[int]) -> Counter[Cell]:
    first, last = min(accepted_us) // MINUTE_US, max(accepted_us) // MINUTE_US
    if first == last and len(set(nodes)) == 1:
        # As a rule. Counting numbers takes a tenth of counting cells.
        return Counter({(each, nodes[0], first): count for each, count in Counter(partitions).items()})
    return Counter(zip(partitions, nodes, [us // MINUTE_US for us in accepted_us], strict=True))


@dataclass(frozen=True, slots=True)
class Copies:
    """Rows of one table as COPY reads them, and how many of them each cell of the ledger holds."""

    ids: bytes
    rows: bytes
    cells: Counter[Cell]


SPOOL_LEDGER: Final = Table(
    "spool_ledger",
    events_pb2.SpoolLedger,
    (
        *_columns("uuid", "event_id"),
        *_instants("accepted_time"),
        *_columns("text", "node", "spool"),
        *_instants("minute"),
        *_columns("text", "topic"),
        *_columns("integer", "partition"),
        *_columns("bigint", "sent", "shed", "refused", "set_aside", "damaged"),
    ),
)

TABLES: Final = (
    Table("impression", events_pb2.Impression, (*_EVENT, *_PLACED, *_columns("jsonb", "features"))),
    Table(
        "click",
        events_pb2.Click,
        (*_EVENT, *_PLACED, *_columns("uuid", "impression_id"), *_columns("boolean", "replayed")),
    ),
    Table(
        "content_view",
        events_pb2.ContentView,
        (
            *_EVENT,
            *_columns("text", "slug", "locale"),
            *_columns("bigint", "version"),
            *_columns("boolean", "not_modified"),
        ),
    ),
    Table(
        "content_receipt",
        events_pb2.ContentReceipt,
        (*_EVENT, *_columns("text", "slug"), *_columns("uuid", "delivery_id"), *_columns("text", "step")),
    ),
    SPOOL_LEDGER,
)


def by_topic(contract: Contract, tables: tuple[Table, ...] = TABLES) -> dict[str, Table]:
    """The table of each topic that the contract declares inward: the bridge's allow-list.

    Raises LookupError when the contract declares an event that has no table, which would be dropped, or the reverse.
    """
    topics = {event.message: event.topic for event in contract.events.values() if event.direction is Direction.INWARD}
    known = {table.message.DESCRIPTOR.full_name: table for table in tables}
    if topics.keys() != known.keys():
        unmatched = ", ".join(sorted(topics.keys() ^ known.keys()))
        raise LookupError(f"inward events and warehouse tables differ: {unmatched}")
    return {topic: known[message] for message, topic in topics.items()}
