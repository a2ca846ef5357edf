"""Where each inward event lands: one list of columns, from which the staging table, COPY and INSERT all follow."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any, Final

import msgspec
from google.protobuf.message import DecodeError, Message
from isthmus.events.v1 import events_pb2

from mesh.contract import Contract
from mesh.contract.model import Direction
from sync_bridge.inbound.domain import Refused
from sync_bridge.ledger.conservation import MINUTE_US, Cell

# int64 microseconds since the epoch to timestamptz. Exact, where to_timestamp(double) is not; 0 is "not stated".
_INSTANT: Final = "timestamptz 'epoch' + nullif({0}, 0) * interval '1 microsecond'"
_ENCODE: Final = msgspec.json.Encoder().encode
_ESCAPES: Final = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


_INSERT: Final = """
    WITH came AS (
        SELECT record_partition, node, date_trunc('minute', {accepted}) AS minute, count(*) AS records
        FROM {staging} GROUP BY 1, 2, 3
    ), landed AS (
        INSERT INTO warehouse.{table} ({names}) SELECT {values} FROM {staging}
        ON CONFLICT (event_id) DO NOTHING RETURNING record_partition, node, accepted_time
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


@dataclass(frozen=True, slots=True)
class Column:
    """A column and the field it comes from. An empty text lands as NULL: in proto3, "" is "not stated"."""

    name: str
    # The type that COPY parses.
    staged: str
    field: str
    # SQL from the staged value to the column's.
    expression: str = "{0}"
    # Python value to text, where str() is not right.
    encode: Callable[[Any], str] | None = None


def _json(value: Mapping[str, str]) -> str:
    # Not dict(value): a protobuf map is many times slower through its mapping interface.
    return _ENCODE({name: value[name] for name in value}).decode() if value else ""


def _uuid(name: str) -> Column:
    return Column(name, "uuid", name)


def _text(name: str) -> Column:
    return Column(name, "text", name)


def _boolean(name: str) -> Column:
    return Column(name, "boolean", name)


def _instant(name: str) -> Column:
    return Column(name, "bigint", f"{name}_us", _INSTANT)


_EVENT: Final = (
    _uuid("event_id"),
    _instant("source_time"),
    _instant("accepted_time"),
    _text("node"),
    _boolean("crawler"),
)
_PLACED: Final = (_text("slot"), _text("campaign_id"), _text("creative_id"))
# Not of the event but of its record.
_ORIGIN: Final = (("trace_id", "uuid"), ("record_partition", "integer"), ("record_offset", "bigint"))


@dataclass(frozen=True, eq=False)
class Table:
    """One event's table in the schema `warehouse`. Encoded columns stand last in `columns`."""

    name: str
    message: type[Message]
    columns: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that the bridge writes, in the order of COPY."""
        return (*(column.name for column in self.columns), *(name for name, _ in _ORIGIN))

    @property
    def staging(self) -> str:
        return f"staged_{self.name}"

    @property
    def create_staging(self) -> str:
        staged = [(column.name, column.staged) for column in self.columns]
        columns = ", ".join(f"{name} {kind}" for name, kind in (*staged, *_ORIGIN))
        return f"CREATE TEMPORARY TABLE {self.staging} ({columns}) ON COMMIT DELETE ROWS"

    @property
    def copy(self) -> str:
        return f"COPY {self.staging} ({', '.join(self.names)}) FROM STDIN (FORMAT text, NULL '')"

    @cached_property
    def insert_new(self) -> str:
        """The rows alone. Fewer than are staged: some events were there already, and `insert` says which."""
        return (
            f"INSERT INTO warehouse.{self.name} ({', '.join(self.names)}) SELECT {self._values} FROM {self.staging}"  # noqa: S608
            " ON CONFLICT (event_id) DO NOTHING"
        )

    @cached_property
    def insert(self) -> str:
        """Parameter: the topic. Returns (partition, rows landed) per partition; what is missing was there already.

        The same statement enters both into the ledger, per node and minute of acceptance.
        """
        return _INSERT.format(
            table=self.name,
            staging=self.staging,
            names=", ".join(self.names),
            values=self._values,
            accepted=_INSTANT.format("accepted_time"),
        )

    @property
    def shadow(self) -> str:
        return f"bridge.shadow_{self.name}"

    def insert_again(self, *, shadow: bool) -> str:
        """For records that were counted when they came the first time: rows alone, and nothing in the ledger."""
        return self.insert_new.replace(f"warehouse.{self.name}", self.shadow, 1) if shadow else self.insert_new

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
    def _values(self) -> str:
        values = [column.expression.format(column.name) for column in self.columns]
        return ", ".join((*values, *(name for name, _ in _ORIGIN)))

    @cached_property
    def _plain(self) -> Callable[[Message], tuple[Any, ...]]:
        return attrgetter(*(column.field for column in self.columns if column.encode is None))

    @cached_property
    def _encoded(self) -> tuple[tuple[str, Callable[[Any], str]], ...]:
        return tuple((column.field, column.encode) for column in self.columns if column.encode is not None)

    @cached_property
    def _template(self) -> str:
        return "\t".join(["%s"] * len(self.names))

    def values(self, payload: bytes, trace_id: str, partition: int, offset: int) -> tuple[tuple[Any, ...], int]:
        """The record's values in the order of COPY, and when the event was accepted (microseconds).

        Raises Refused when the payload is not such a message.
        """
        try:
            message = self.message.FromString(payload)
        except DecodeError as error:
            raise Refused("UNREADABLE", f"not a {self.message.DESCRIPTOR.full_name}: {error}") from error
        encoded = [encode(getattr(message, field)) for field, encode in self._encoded]
        return (*self._plain(message), *encoded, trace_id, partition, offset), message.accepted_time_us  # type: ignore[attr-defined]

    def cells(self, rows: Iterable[tuple[Any, ...]]) -> Counter[Cell]:
        """How many of the rows each cell of the ledger holds."""
        partition, node, accepted = map(self.names.index, ("record_partition", "node", "accepted_time"))
        return Counter([(row[partition], row[node], row[accepted] // MINUTE_US) for row in rows])

    def text(self, rows: Sequence[tuple[Any, ...]]) -> str:
        """What COPY reads for these rows."""
        whole = "\n".join(map(self._template.__mod__, rows)) + "\n"
        # Characters that mean something to COPY are rare: looking for them in the whole costs less than escaping all.
        plain = "\\" not in whole and "\r" not in whole and whole.count("\n") == len(rows)
        if plain and whole.count("\t") == len(rows) * (len(self.names) - 1):
            return whole
        return "".join(["\t".join([str(value).translate(_ESCAPES) for value in row]) + "\n" for row in rows])


SPOOL_LEDGER: Final = Table(
    "spool_ledger",
    events_pb2.SpoolLedger,
    (
        _uuid("event_id"),
        _instant("accepted_time"),
        _text("node"),
        _text("spool"),
        _instant("minute"),
        _text("topic"),
        Column("partition", "integer", "partition"),
        *(Column(name, "bigint", name) for name in ("sent", "shed", "refused", "set_aside", "damaged")),
    ),
)

TABLES: Final = (
    Table(
        "impression",
        events_pb2.Impression,
        (*_EVENT, *_PLACED, Column("features", "jsonb", "features", encode=_json)),
    ),
    Table("click", events_pb2.Click, (*_EVENT, *_PLACED, _uuid("impression_id"), _boolean("replayed"))),
    Table(
        "content_view",
        events_pb2.ContentView,
        (
            *_EVENT,
            _text("slug"),
            _text("locale"),
            Column("version", "numeric", "version", "{0}::bigint"),
            _boolean("not_modified"),
        ),
    ),
    Table(
        "content_receipt",
        events_pb2.ContentReceipt,
        (*_EVENT, _text("slug"), _uuid("delivery_id"), _text("step")),
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
