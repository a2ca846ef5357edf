"""Columns that hold nothing but envelopes.

    phone = Column("phone", Encrypted(), nullable=False)

The type lets no plaintext through: what is bound must be an Envelope, and what is read comes back as one. `RowCipher`
seals and opens all encrypted columns of a row together, so that none is forgotten.
"""

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Dialect, LargeBinary, Table
from sqlalchemy.types import TypeDecorator

from security.keys.envelope import DataKey, Envelope, encode_part, encode_parts

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
        return bytes(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> Envelope | None:
        return None if value is None else Envelope.parse(bytes(value))


class RowCipher:
    """Seals and opens the encrypted columns of one table. Values are text, each bound to its column and row."""

    def __init__(self, table: Table, tenant: str) -> None:
        self.columns = tuple(column.name for column in table.columns if isinstance(column.type, Encrypted))
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
        return {column: key.seal_at(value.encode(), before[column] + end) for column, value in values.items()}

    def open(self, key: DataKey, row: str, stored: Mapping[str, Any]) -> dict[str, str]:
        """The text of each encrypted column. Raises EnvelopeRejected for a value that belongs elsewhere."""
        end, before = encode_part(row) + self._behind, self._before
        return {column: key.open_at(stored[column], before[column] + end).decode() for column in self.columns}
