"""Dead letters: records that could not cross, kept whole so that they can be looked at and sent again."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

import psycopg

# What PostgreSQL tells about a value may repeat the value: enough to see what is wrong, and no more.
_DETAIL_CHARACTERS_MAX: Final = 500

# Year 10000, which datetime cannot hold; a producer may state any time.
_TIME_MS_END: Final = 253_402_300_800_000

_INSERT: Final = """
    INSERT INTO bridge.dead_letter
        (direction, topic, partition, position, kind, cause, detail, record_key, headers, payload, record_time)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""

Headers = Sequence[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that was refused. `partition` is absent outward, where `position` is the outbox row's seq."""

    direction: Literal["inward", "outward"]
    topic: str
    partition: int | None
    position: int
    kind: str | None
    cause: str
    detail: str
    key: bytes | None
    payload: bytes | None
    headers: Headers = ()
    # Milliseconds since the epoch; 0: unknown.
    time_ms: int = 0


def bury(connection: psycopg.Connection, letters: Sequence[DeadLetter]) -> None:
    """Write the letters in the caller's transaction: with the checkpoint, or with the removal from the outbox."""
    if not letters:
        return
    with connection.cursor() as cursor:
        cursor.executemany(_INSERT, [_row(letter) for letter in letters])


def _row(letter: DeadLetter) -> tuple[object, ...]:
    return (
        letter.direction,
        letter.topic,
        letter.partition,
        letter.position,
        _storable(letter.kind) if letter.kind is not None else None,
        letter.cause,
        _storable(letter.detail)[:_DETAIL_CHARACTERS_MAX],
        letter.key,
        headers_json(letter.headers),
        letter.payload,
        datetime.fromtimestamp(letter.time_ms / 1000, UTC) if 0 < letter.time_ms < _TIME_MS_END else None,
    )


def headers_json(headers: Headers) -> str:
    """Headers as a JSON array in their order: {"name", "value"} where it is text, else {"name", "base64"}."""
    return json.dumps([_header(name, value) for name, value in headers])


def _header(name: str, value: bytes | None) -> dict[str, str | None]:
    if value is None:
        return {"name": _storable(name), "value": None}
    text = value.decode("utf-8", "replace")
    if "\ufffd" in text or "\0" in text:
        return {"name": _storable(name), "base64": base64.b64encode(value).decode()}
    return {"name": _storable(name), "value": text}


def _storable(text: str) -> str:
    """PostgreSQL's text holds every character but NUL."""
    return text.replace("\0", "\ufffd")
