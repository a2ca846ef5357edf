"""Columns that hold nothing but envelopes.

    phone = Column("phone", Encrypted(), nullable=False)

The type lets no plaintext through: what is bound must be an Envelope, and what is read comes back as one. `RowCipher`
seals and opens all encrypted columns of a row together, so that none is forgotten.
"""

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Dialect, LargeBinary, Table
from sqlalchemy.types import TypeDecorator

from security.keys.envelope import DataKey, Envelope, Place

FIELD_VERSION: Final = 1


class Encrypted(TypeDecorator[Envelope]):
    """An envelope, stored as bytea."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: Envelope | None, dialect: Dialect) -> bytes | None:
        if value is None:
            return None
        if not isinstance(value, Envelope):
            # Never with the value: it is what must not be seen.
            raise TypeError("an encrypted column takes envelopes only: seal the value first")
        return value.to_bytes()

    def process_result_value(self, value: Any | None, dialect: Dialect) -> Envelope | None:
        return None if value is None else Envelope.parse(bytes(value))


class RowCipher:
    """Seals and opens the encrypted columns of one table. Values are text, each bound to its column and row."""

    def __init__(self, table: Table, tenant: str) -> None:
        self.columns = tuple(column.name for column in table.columns if isinstance(column.type, Encrypted))
        self._tenant = tenant
        self._table = table.fullname

    def seal(self, key: DataKey, row: str, values: Mapping[str, str]) -> dict[str, Envelope]:
        """An envelope for each encrypted column of `row`. Raises ValueError unless `values` names exactly these."""
        if values.keys() != set(self.columns):
            raise ValueError(f"{self._table} encrypts {', '.join(self.columns)}, not {', '.join(sorted(values))}")
        return {column: key.seal(value.encode(), self._place(column, row)) for column, value in values.items()}

    def open(self, key: DataKey, row: str, stored: Mapping[str, Any]) -> dict[str, str]:
        """The text of each encrypted column. Raises EnvelopeRejected for a value that belongs elsewhere."""
        return {column: key.open(stored[column], self._place(column, row)).decode() for column in self.columns}

    def _place(self, column: str, row: str) -> Place:
        return Place(self._tenant, self._table, column, row, FIELD_VERSION)
