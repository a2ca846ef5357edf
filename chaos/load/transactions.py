"""Reads purchases in the format of the CDNOW sample: customer, number in the sample, date, pieces, dollars."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path

from chaos.load.input_error import BadInput

CURRENCY = "USD"
MINOR_UNITS = 100
PIECES_MAX = 10_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FIELDS = 5
_CUSTOMER = re.compile(r"[0-9]{1,18}")
_DATE = re.compile(r"[0-9]{8}")
_PIECES = re.compile(r"[0-9]{1,5}")
_DOLLARS = re.compile(r"[0-9]{1,12}(\.[0-9]{1,2})?")


@dataclass(frozen=True, slots=True)
class Purchase:
    """One purchase. Two rows that are alike are two purchases; `line` tells them apart. An amount may be zero."""

    line: int
    customer: str
    source_time_us: int
    # 1997-01, in UTC.
    month: str
    pieces: int
    amount_minor: int


def read_transactions(file: Path, limit: int | None = None) -> tuple[Purchase, ...]:
    """The first `limit` rows, or all, in the order of the file.

    Raises:
        BadInput: the file is missing, is no text, has no row, or has a row that breaks a rule.
    """
    try:
        with file.open(encoding="utf-8") as lines:
            rows = tuple(_row(file, number, text) for number, text in enumerate(islice(lines, limit), start=1))
    except OSError as error:
        raise BadInput(file, 0, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInput(file, 0, "is not UTF-8") from error
    if not rows:
        raise BadInput(file, 0, "has no rows")
    return rows


def by_customer(rows: Iterable[Purchase]) -> dict[str, list[Purchase]]:
    """Each customer's purchases, both in the order of the file."""
    customers: dict[str, list[Purchase]] = {}
    for row in rows:
        customers.setdefault(row.customer, []).append(row)
    return customers


def _row(file: Path, line: int, text: str) -> Purchase:
    fields = text.split()
    if len(fields) != _FIELDS:
        raise BadInput(file, line, f"must have {_FIELDS} fields: customer, number, date, pieces, dollars")
    customer, _, date, pieces, dollars = fields
    if not _CUSTOMER.fullmatch(customer):
        raise BadInput(file, line, "customer must be a number of at most 18 digits")
    if not _PIECES.fullmatch(pieces) or not 1 <= int(pieces) <= PIECES_MAX:
        raise BadInput(file, line, f"pieces must be a whole number from 1 to {PIECES_MAX}")
    if not _DOLLARS.fullmatch(dollars):
        raise BadInput(file, line, "dollars must be a number that is not negative, with at most two decimals")
    time = _midnight(file, line, date)
    return Purchase(
        line,
        customer,
        (time - _EPOCH) // _MICROSECOND,
        f"{time.year:04}-{time.month:02}",
        int(pieces),
        int(Decimal(dollars) * MINOR_UNITS),
    )


def _midnight(file: Path, line: int, date: str) -> datetime:
    rule = "date must be a day later than 1970-01-01, as 19970131"
    if not _DATE.fullmatch(date):
        raise BadInput(file, line, rule)
    try:
        time = datetime(int(date[:4]), int(date[4:6]), int(date[6:]), tzinfo=UTC)
    except ValueError:
        raise BadInput(file, line, rule) from None
    if time <= _EPOCH:
        raise BadInput(file, line, rule)
    return time
