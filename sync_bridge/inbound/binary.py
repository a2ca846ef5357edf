"""PostgreSQL's binary form of COPY, column by column: what is done once for a whole column is not done for each value.

Nothing in it needs to be escaped, and the server parses no digits. Every field is its length in bytes, four of them,
and its value in network order (PostgreSQL's documentation of COPY, "Binary Format"). Texts that are empty, instants
that are 0 and objects without a member are "not stated" in proto3, and land as NULL.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, repeat
from struct import Struct
from struct import error as StructError
from typing import Any, Final

import msgspec

from sync_bridge.inbound.domain import Refused

_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER: Final = b"\xff\xff"
_NULL: Final = b"\xff\xff\xff\xff"
_COUNT: Final = Struct(">h").pack
_LENGTH: Final = Struct(">i").pack
_INTEGER: Final = Struct(">ii").pack
_BIGINT: Final = Struct(">iq").pack
_UUID_LENGTH: Final = _LENGTH(16)
_BOOLEANS: Final = {False: _LENGTH(1) + b"\0", True: _LENGTH(1) + b"\1"}
# PostgreSQL counts microseconds from the year 2000.
_EPOCH_US: Final = 946_684_800_000_000
# It goes on beyond them, but most who read it do not.
_YEAR_1_US: Final = -62_135_596_800_000_000
_YEAR_10000_US: Final = 253_402_300_800_000_000
_JSON_LINES: Final = msgspec.json.Encoder().encode_lines
# The only version there is.
_JSONB: Final = b"\1"

Fields = Iterable[bytes]


def encode(kind: str, values: Sequence[Any]) -> list[bytes]:
    """A column's values as fields. Raises Refused where one of them is no value of that type."""
    try:
        return list(_ENCODERS[kind](values))
    except (ValueError, StructError) as error:
        # Not the value itself.
        raise Refused("NOT_OF_ITS_TYPE", f"a value is no {kind}") from error


def copied(columns: Sequence[Fields]) -> bytes:
    """What COPY reads for rows of these columns, all of them as long as each other."""
    count = _COUNT(len(columns))
    rows = zip(repeat(count), *columns, strict=False)
    return b"".join(chain((_HEADER,), chain.from_iterable(rows), (_TRAILER,)))


class _Texts(dict[str, bytes]):
    """Each different text is encoded once."""

    def __missing__(self, text: str) -> bytes:
        data = text.encode()
        field = self[text] = _LENGTH(len(data)) + data if data else _NULL
        return field


def _texts(values: Sequence[str]) -> Fields:
    return map(_Texts().__getitem__, values)


def _uuids(values: Sequence[str]) -> Fields:
    digits = "".join(values)
    if len(digits) == 32 * len(values) and set(map(len, values)) == {32}:
        whole = bytes.fromhex(digits)
        if len(whole) == 16 * len(values):
            return [_UUID_LENGTH + whole[at : at + 16] for at in range(0, len(whole), 16)]
    return map(_uuid, values)


def _uuid(value: str) -> bytes:
    if not value:
        return _NULL
    data = bytes.fromhex(value)
    # Spaces between digits are passed over.
    if len(value) != 32 or len(data) != 16:
        raise ValueError("a uuid has 32 digits")
    return _UUID_LENGTH + data


def _instants(values: Sequence[int]) -> Fields:
    if not _YEAR_1_US <= min(values, default=0) <= max(values, default=0) < _YEAR_10000_US:
        raise ValueError("no year of four digits")
    return [_BIGINT(8, us - _EPOCH_US) if us else _NULL for us in values]


def _booleans(values: Sequence[bool]) -> Fields:
    return map(_BOOLEANS.__getitem__, values)


def _integers(values: Sequence[int]) -> Fields:
    return [_INTEGER(4, value) for value in values]


def _bigints(values: Sequence[int]) -> Fields:
    return [_BIGINT(8, value) for value in values]


def _objects(values: Sequence[Mapping[str, str]]) -> Fields:
    lines = _JSON_LINES(values).split(b"\n")
    lines.pop()
    return [_LENGTH(len(line) + 1) + _JSONB + line if line != b"{}" else _NULL for line in lines]


_ENCODERS: Final[Mapping[str, Callable[[Sequence[Any]], Fields]]] = {
    "uuid": _uuids,
    "text": _texts,
    "boolean": _booleans,
    "integer": _integers,
    "bigint": _bigints,
    "timestamptz": _instants,
    "jsonb": _objects,
}
