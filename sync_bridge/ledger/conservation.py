"""The ledger of conservation: what the edge says it sent, what became of it, and the rows that stand there.

Each line is one node, topic, partition and minute of acceptance. Three witnesses are put side by side: the spools
(`warehouse.spool_ledger`), the bridge (`bridge.ledger`) and the rows themselves.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

import psycopg

LINES_MAX: Final = 5_000
MINUTE_US: Final = 60_000_000
_MINUTE_MS: Final = 60_000
# Year 10000 in minutes; a header may say anything.
_MINUTES_END: Final = 4_223_371_680
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_ENTER: Final = """
    INSERT INTO bridge.ledger AS held (node, topic, partition, minute, dead_letters)
    SELECT * FROM unnest(%s::text[], %s::text[], %s::int[], %s::timestamptz[], %s::bigint[])
    ON CONFLICT (node, topic, partition, minute) DO UPDATE SET dead_letters = held.dead_letters + excluded.dead_letters
"""
_ENTER_LANDED: Final = """
    INSERT INTO bridge.ledger AS held (node, topic, partition, minute, landed)
    SELECT node, %s, partition, timestamptz 'epoch' + minute * interval '1 minute', landed
    FROM unnest(%s::int[], %s::text[], %s::bigint[], %s::bigint[]) AS cell (partition, node, minute, landed)
    ON CONFLICT (node, topic, partition, minute) DO UPDATE SET landed = held.landed + excluded.landed
"""
_READ: Final = """
    WITH said AS (
        SELECT minute, node, coalesce(topic, '') AS topic, partition, sum(sent) AS sent, sum(shed) AS shed,
            sum(refused) AS refused, sum(set_aside) AS set_aside, sum(damaged) AS damaged
        FROM warehouse.spool_ledger WHERE minute >= %(begin)s AND minute < %(end)s
        GROUP BY minute, node, topic, partition
    ), became AS (
        SELECT minute, node, topic, partition, landed, duplicates, dead_letters
        FROM bridge.ledger WHERE minute >= %(begin)s AND minute < %(end)s AND topic <> %(own)s
    ), rows AS ({rows}), closed AS (
        SELECT node, max(minute) AS newest FROM warehouse.spool_ledger WHERE partition >= 0 GROUP BY node
    )
    SELECT (extract(epoch FROM minute) * 1000000)::bigint AS minute_us, node, topic, partition,
        coalesce(sent, 0)::bigint AS sent, coalesce(shed, 0)::bigint AS shed, coalesce(refused, 0)::bigint AS refused,
        coalesce(set_aside, 0)::bigint AS set_aside, coalesce(damaged, 0)::bigint AS damaged,
        coalesce(landed, 0) AS landed, coalesce(duplicates, 0) AS duplicates, coalesce(dead_letters, 0) AS dead_letters,
        coalesce(rows, 0) AS rows, coalesce(minute <= newest, false) AS closed
    FROM said FULL JOIN became USING (minute, node, topic, partition)
        FULL JOIN rows USING (minute, node, topic, partition)
        LEFT JOIN closed USING (node)
    ORDER BY minute, node, topic, partition LIMIT {limit}
"""
_ROWS: Final = """
        SELECT date_trunc('minute', accepted_time) AS minute, node, {topic} AS topic, record_partition AS partition,
            count(*) AS rows
        FROM warehouse.{table} WHERE accepted_time >= %(begin)s AND accepted_time < %(end)s GROUP BY 1, 2, 4
"""


# Of one topic: (partition, node, minute of acceptance since the epoch).
Cell = tuple[int, str, int]


class Refusable(Protocol):
    """What a record says of itself."""

    def topic(self) -> str: ...
    def partition(self) -> int: ...
    def headers(self) -> list[tuple[str, bytes | None]] | None: ...
    def timestamp(self) -> tuple[int, int]: ...


@dataclass(frozen=True, slots=True)
class Line:
    minute_us: int
    node: str
    topic: str
    # -1: events that were never sent.
    partition: int
    sent: int
    shed: int
    refused: int
    set_aside: int
    damaged: int
    landed: int
    duplicates: int
    dead_letters: int
    rows: int
    # The node has closed a minute that is not before this one.
    closed: bool


def place_of(record: Refusable) -> tuple[str, str, int, datetime]:
    """(node, topic, partition, minute) by the record's headers, for a record of which nothing else can be read."""
    headers = dict(record.headers() or ())
    node = (headers.get("node") or b"").decode("utf-8", "replace").replace("\0", "\ufffd")[:100]
    stated = headers.get("minute") or b""
    minute = int(stated) if stated.isdigit() and len(stated) <= 10 else max(0, record.timestamp()[1]) // _MINUTE_MS
    return node, record.topic(), record.partition(), _EPOCH + timedelta(minutes=min(minute, _MINUTES_END))


def enter_dead_letters(connection: psycopg.Connection, records: Iterable[Refusable]) -> None:
    """Count records that were buried, in the caller's transaction."""
    change(connection, Counter(map(place_of, records)))


def enter_landed(connection: psycopg.Connection, topic: str, cells: Mapping[Cell, int]) -> None:
    """Count rows that were landed, in the caller's transaction."""
    lines = [(*cell, count) for cell, count in sorted(cells.items())]
    connection.execute(_ENTER_LANDED, [topic, *(list(column) for column in zip(*lines, strict=True))])


def change(connection: psycopg.Connection, dead_letters: Mapping[tuple[str, str, int, datetime], int]) -> None:
    """Add to the counts of dead letters; a replayed one is taken off."""
    if dead_letters:
        lines = [(*place, count) for place, count in sorted(dead_letters.items())]
        connection.execute(_ENTER, [list(column) for column in zip(*lines, strict=True)])


def read(
    connection: psycopg.Connection, tables: Mapping[str, str], own_topic: str, begin_us: int, end_us: int
) -> Sequence[Line]:
    """The lines of [begin, end), microseconds; 0: no bound. One line more than LINES_MAX says that there are more.

    tables: the table of the warehouse by topic, that of the ledger itself left out.
    """
    rows = " UNION ALL ".join(
        _ROWS.format(topic=psycopg.sql.Literal(topic).as_string(None), table=table) for topic, table in tables.items()
    )
    window = {
        "begin": _EPOCH + timedelta(microseconds=begin_us),
        "end": _EPOCH + timedelta(microseconds=end_us) if end_us else datetime(9999, 12, 31, tzinfo=UTC),
        "own": own_topic,
    }
    query = _READ.format(rows=rows, limit=LINES_MAX + 1)
    return [Line(*values) for values in connection.execute(query, window).fetchall()]
