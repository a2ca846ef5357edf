"""Dead letters after their burial: looked at, tried again, or given up."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

import psycopg
from psycopg import sql

State = Literal["open", "replayed", "dropped"]

_HEADER: Final = "coalesce(jsonb_path_query_first(headers, '$[*] ? (@.name == \"{}\").value') #>> '{{}}', '')"
_COLUMNS: Final = f"""
    dead_letter_id, direction, topic, partition, position, coalesce(kind, '') AS kind,
    {_HEADER.format("node")} AS origin, {_HEADER.format("event-id")} AS event_id, cause, detail, attempts, state,
    record_time, buried_time, settled_time, reason
"""
_CONTENT: Final = "record_key, payload, headers"
# What is erased with a dropped letter is what was sent; that it was sent, when and by whom stays.
_EMPTIED: Final = """record_key = NULL, payload = NULL,
        headers = coalesce((SELECT jsonb_agg(one) FROM jsonb_array_elements(headers) AS one
            WHERE one->>'name' IN ('node', 'event-id', 'minute')), '[]')"""
_DROP: Final = f"""
    UPDATE bridge.dead_letter
    SET state = 'dropped', settled_time = clock_timestamp(), reason = %(reason)s, {_EMPTIED}
    WHERE {{}}
"""  # noqa: S608
# Letters of an inward topic ("": those that were stopped on their way out) that were buried before a time. One that is
# still open can be replayed no more, and so is dropped.
EMPTY: Final = f"""
    UPDATE bridge.dead_letter
    SET settled_time = coalesce(settled_time, clock_timestamp()),
        reason = CASE state WHEN 'open' THEN 'kept for long enough' ELSE reason END,
        state = CASE state WHEN 'open' THEN 'dropped' ELSE state END, {_EMPTIED}
    WHERE dead_letter_id = ANY(ARRAY(
        SELECT dead_letter_id FROM bridge.dead_letter
        WHERE buried_time < %(before)s AND (record_key IS NOT NULL OR payload IS NOT NULL)
            AND CASE %(topic)s WHEN '' THEN direction = 'outward' ELSE direction = 'inward' AND topic = %(topic)s END
        LIMIT %(limit)s
    ))
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class Letter:
    """A row of bridge.dead_letter without what the record held."""

    dead_letter_id: int
    direction: str
    topic: str
    partition: int | None
    position: int
    kind: str
    origin: str
    event_id: str
    cause: str
    detail: str
    attempts: int
    state: State
    record_time: datetime | None
    buried_time: datetime
    settled_time: datetime | None
    reason: str


@dataclass(frozen=True, slots=True)
class Content:
    """What the record held; of a dropped letter only a few headers are left."""

    key: bytes | None
    payload: bytes | None
    headers: list[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class Selection:
    """Open letters that fit every condition set. Without any condition it selects none."""

    ids: tuple[int, ...] = ()
    topic: str = ""
    cause: str = ""
    all: bool = False

    @property
    def empty(self) -> bool:
        return not (self.ids or self.topic or self.cause or self.all)

    def where(self) -> tuple[sql.Composable, dict[str, object]]:
        conditions = [sql.SQL("state = 'open'"), sql.SQL("false") if self.empty else sql.SQL("true")]
        conditions += [sql.SQL("dead_letter_id = ANY(%(ids)s)")] * bool(self.ids)
        conditions += [sql.SQL("topic = %(topic)s")] * bool(self.topic)
        conditions += [sql.SQL("cause = %(cause)s")] * bool(self.cause)
        values: dict[str, object] = {"ids": list(self.ids), "topic": self.topic, "cause": self.cause}
        return sql.SQL(" AND ").join(conditions), values


def list_letters(
    connection: psycopg.Connection, after_id: int, limit: int, topic: str = "", cause: str = "", state: str = ""
) -> list[Letter]:
    """In the order of burial."""
    found = connection.execute(
        f"SELECT {_COLUMNS} FROM bridge.dead_letter WHERE dead_letter_id > %s AND (%s = '' OR topic = %s)"  # noqa: S608
        " AND (%s = '' OR cause = %s) AND (%s = '' OR state = %s) ORDER BY dead_letter_id LIMIT %s",
        (after_id, topic, topic, cause, cause, state, state, limit),
    )
    return [Letter(*row) for row in found]


def get(connection: psycopg.Connection, dead_letter_id: int) -> tuple[Letter, Content] | None:
    found = connection.execute(
        f"SELECT {_COLUMNS}, {_CONTENT} FROM bridge.dead_letter WHERE dead_letter_id = %s",  # noqa: S608
        (dead_letter_id,),
    ).fetchone()
    return None if found is None else _whole(found)


def lock(
    connection: psycopg.Connection, selection: Selection, after_id: int, limit: int
) -> list[tuple[Letter, Content]]:
    """The next open letters, theirs for this transaction, in the order of their records.

    Letters of one partition were buried in the order of their offsets, so the order of burial is theirs too.
    """
    where, values = selection.where()
    query = sql.SQL(
        "SELECT {columns}, {content} FROM bridge.dead_letter WHERE {where} AND dead_letter_id > %(after)s"
        " ORDER BY dead_letter_id LIMIT %(limit)s FOR UPDATE"
    ).format(columns=sql.SQL(_COLUMNS), content=sql.SQL(_CONTENT), where=where)
    return [_whole(row) for row in connection.execute(query, {**values, "after": after_id, "limit": limit})]


def settle_replayed(connection: psycopg.Connection, dead_letter_id: int) -> None:
    connection.execute(
        "UPDATE bridge.dead_letter SET state = 'replayed', settled_time = clock_timestamp(), attempts = attempts + 1"
        " WHERE dead_letter_id = %s",
        (dead_letter_id,),
    )


def fail_again(connection: psycopg.Connection, dead_letter_id: int, cause: str, detail: str) -> Letter:
    """One more attempt, and why it failed. Returns the letter as it is now."""
    row = connection.execute(
        "UPDATE bridge.dead_letter SET attempts = attempts + 1, cause = %s, detail = %s"  # noqa: S608
        f" WHERE dead_letter_id = %s RETURNING {_COLUMNS}",
        (cause, detail.replace("\0", "\ufffd")[:500], dead_letter_id),
    ).fetchone()
    assert row is not None
    return Letter(*row)


def drop(connection: psycopg.Connection, selection: Selection, reason: str) -> int:
    """Erase what the selected letters hold; returns how many there were. A second time there are none."""
    where, values = selection.where()
    return connection.execute(sql.SQL(_DROP).format(where), {**values, "reason": reason}).rowcount


def _whole(row: Sequence[object]) -> tuple[Letter, Content]:
    *letter, key, payload, headers = row
    return Letter(*letter), Content(key, payload, [(one["name"], _value(one)) for one in headers])  # type: ignore[arg-type, attr-defined]


def _value(header: dict[str, str | None]) -> bytes | None:
    if "base64" in header:
        return base64.b64decode(header["base64"] or "")
    value = header["value"]
    return None if value is None else value.encode()
