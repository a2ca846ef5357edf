"""Reads impressions in the format of the Open Bandit Dataset (Saito et al., arXiv 2008.07146)."""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from sys import intern

from chaos.load.input_error import BadInput

FEATURES = tuple(f"user_feature_{n}" for n in range(4))
COLUMNS = ("timestamp", "item_id", "position", "click", *FEATURES)
FEATURE_CHARACTERS_MAX = 128
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_ITEM = re.compile(r"[0-9]{1,9}")
_POSITION = re.compile(r"[1-9][0-9]{0,2}")


@dataclass(frozen=True, slots=True)
class ImpressionRow:
    """One row: an ad was shown to somebody, and perhaps clicked.

    `collection` is the file's name without its ending: the same item number in two files is two items.
    """

    source_time_us: int
    collection: str
    item: int
    slot: str
    clicked: bool
    features: Mapping[str, str]


def read_impressions(files: Sequence[Path], limit: int | None = None) -> tuple[ImpressionRow, ...]:
    """All rows of the files in the order of their time; of each file at most the first `limit`.

    Raises:
        BadInput: a file is missing, is no CSV, lacks a column, has no row, or has a row that breaks a rule.
    """
    rows = [row for file in files for row in _read_file(file, limit)]
    return tuple(sorted(rows, key=lambda row: row.source_time_us))


def _read_file(file: Path, limit: int | None) -> list[ImpressionRow]:
    collection = re.sub(r"[^a-z0-9]+", "-", file.stem.lower()).strip("-")[:32].strip("-") or "items"
    line = 0
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise BadInput(file, 1, f"the header lacks {', '.join(missing)}")
            rows = []
            for record in islice(reader, limit):
                line = reader.line_num
                rows.append(_row(file, line, collection, record))
    except OSError as error:
        raise BadInput(file, 0, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInput(file, 0, f"is not UTF-8 (after line {line})") from error
    except csv.Error as error:
        raise BadInput(file, line + 1, f"is not CSV: {error}") from error
    if not rows:
        raise BadInput(file, 0, "has no rows")
    return rows


def _row(file: Path, line: int, collection: str, record: Mapping[str | None, str | None]) -> ImpressionRow:
    if None in record or None in record.values():
        raise BadInput(file, line, "has not as many values as the header has columns")
    values = {str(column): str(value) for column, value in record.items()}
    if not _ITEM.fullmatch(values["item_id"]):
        raise BadInput(file, line, "item_id must be a whole number from 0 to 999999999")
    if not _POSITION.fullmatch(values["position"]):
        raise BadInput(file, line, "position must be a whole number from 1 to 999")
    if values["click"] not in ("0", "1"):
        raise BadInput(file, line, "click must be 0 or 1")
    return ImpressionRow(
        _microseconds(file, line, values["timestamp"]),
        collection,
        int(values["item_id"]),
        intern(f"position-{values['position']}"),
        values["click"] == "1",
        dict(_features(file, line, values)),
    )


def _microseconds(file: Path, line: int, text: str) -> int:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(file, line, "timestamp must be an ISO 8601 date and time") from None
    if time.tzinfo is None:
        raise BadInput(file, line, "timestamp must name its offset from UTC")
    if time <= _EPOCH:
        raise BadInput(file, line, "timestamp must be later than 1970-01-01")
    return (time - _EPOCH) // _MICROSECOND


def _features(file: Path, line: int, values: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name in FEATURES:
        value = values[name]
        if not 1 <= len(value) <= FEATURE_CHARACTERS_MAX:
            raise BadInput(file, line, f"{name} must have 1 to {FEATURE_CHARACTERS_MAX} characters")
        yield name, intern(value)


def slots(rows: Iterable[ImpressionRow]) -> tuple[str, ...]:
    """The distinct slots, sorted."""
    return tuple(sorted({row.slot for row in rows}))
