"""Columns that hold nothing but envelopes.

    phone = Column("phone", Encrypted(), nullable=False)

The type lets no plaintext through: what is bound must be an Envelope. What is read comes back as it lies, and is looked
at where it is opened. `RowCipher` seals and opens all encrypted columns of a row together, so that none is forgotten.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from sqlalchemy import Column, Dialect, Table, TextClause, bindparam
from sqlalchemy.types import UserDefinedType

from security.keys.envelope import DataKey, Envelope, encode_part, encode_parts

FIELD_VERSION: Final = 1


class Encrypted(UserDefinedType[bytes]):
    """An envelope, stored as bytea."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "BYTEA"

    def bind_processor(self, dialect: Dialect) -> Callable[[bytes | None], bytes | None]:
        return _bound


def _bound(value: bytes | None) -> bytes | None:
    if value is not None and not isinstance(value, Envelope):
        # Never with the value: it is what must not be seen.
        raise TypeError("an encrypted column takes envelopes only: seal the value first")
    return value


def only_envelopes(statement: TextClause, table: Table) -> TextClause:
    """`statement`, whose parameters named as the encrypted columns of `table` are of their type."""
    return statement.bindparams(*(bindparam(column.name, type_=column.type) for column in encrypted(table)))


def encrypted(table: Table) -> list[Column[bytes]]:
    return [column for column in table.columns if isinstance(column.type, Encrypted)]


class RowCipher:
    """Seals and opens the encrypted columns of one table. Values are text, each bound to its column and row."""

    def __init__(self, table: Table, tenant: str) -> None:
        self.columns = tuple(column.name for column in encrypted(table))
        self._named = frozenset(self.columns)
        self._table = table.fullname
        # A place is its parts one behind another (security.keys.envelope.Place): what is the same for every row, once.
        self._before = {column: encode_parts(tenant, self._table, column) for column in self.columns}
        self._behind = encode_parts(str(FIELD_VERSION))

    def seal(self, key: DataKey, row: str, values: Mapping[str, str]) -> dict[str, Envelope]:
        """An envelope for each encrypted column of `row`. Raises ValueError unless `values` names exactly these."""
        if values.keys() != self._named:
            raise ValueError(f"{self._table} encrypts {', '.join(self.columns)}, not {', '.join(sorted(values))}")
        end, before = encode_part(row) + self._behind, self._before
        sealed = key.seal_each([(value.encode(), before[column] + end) for column, value in values.items()])
        return dict(zip(values, sealed, strict=True))

    def open(self, key: DataKey, row: str, stored: Mapping[str, bytes]) -> dict[str, str]:
        """Each encrypted column's text. Raises EnvelopeRejected for a value that belongs elsewhere, else as `parse`."""
        end, before = encode_part(row) + self._behind, self._before
        return {column: key.open_at(stored[column], before[column] + end).decode() for column in self.columns}
