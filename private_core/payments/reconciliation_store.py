"""Operations as a statement is held against them, and what came of it, in PostgreSQL."""

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.database.engine import execute
from private_core.payments.domain import Kind, Progress
from private_core.payments.statement import Difference, Entry

PAGE: Final = 1000

_ENTRY: Final = """
    SELECT operation_id, kind, progress, payment_id, operation.amount, currency,
        (SELECT max(posting.amount) FROM payments.posting WHERE transfer_id = operation_id) AS posted
    FROM payments.operation AS operation JOIN payments.payment AS payment USING (payment_id)
    """
_NAMED: Final = text(f"{_ENTRY} WHERE operation_id = ANY(:ids)")
# What the provider answered; what was declined here without asking it has no id of the provider's.
_ANSWERED: Final = text(
    f"""{_ENTRY}
    WHERE operation.created_time >= :begins AND operation.created_time < :ends AND operation_id > :after
        AND progress <> 'open' AND provider_id <> '' ORDER BY operation_id LIMIT :limit
    """
)
_FOUND: Final = text(
    """
    INSERT INTO payments.difference (provider, operation_id, name, here, there, day)
    SELECT :provider, found.* , CAST(:day AS date)
    FROM unnest(CAST(:ids AS text[]), CAST(:names AS text[]), CAST(:heres AS text[]), CAST(:theres AS text[])) AS found
    ON CONFLICT (provider, operation_id, name) DO NOTHING RETURNING operation_id
    """
)
_FINISHED: Final = text(
    """
    INSERT INTO payments.reconciliation AS held (provider, day, lines, differences)
    VALUES (:provider, :day, :lines, :differences)
    ON CONFLICT (provider, day) DO UPDATE
        SET lines = excluded.lines, differences = excluded.differences, finished_time = now()
    """
)
_DONE: Final = text("SELECT 1 FROM payments.reconciliation WHERE provider = :provider AND day = :day")


class ReconciliationStore:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def entries(self, ids: Iterable[str]) -> dict[str, Entry]:
        """What is written here of operations, by id; without those that are not known."""
        return {row.operation_id: _entry(row) for row in await execute(self._engine, _NAMED, {"ids": list(ids)})}

    async def answered(self, begins: datetime, ends: datetime, after: str) -> list[Entry]:
        """Operations begun in [begins, ends) that ended by the provider's answer, the next page after an id."""
        parameters = {"begins": begins, "ends": ends, "after": after, "limit": PAGE}
        return [_entry(row) for row in await execute(self._engine, _ANSWERED, parameters)]

    async def found(self, provider: str, differences: Sequence[Difference], day: date | None) -> int:
        """Write differences down. Returns how many were not known before."""
        parameters = {
            "provider": provider,
            "day": day,
            "ids": [one.operation_id for one in differences],
            "names": [one.name.value for one in differences],
            "heres": [one.here for one in differences],
            "theres": [one.there for one in differences],
        }
        return len(await execute(self._engine, _FOUND, parameters))

    async def finished(self, provider: str, day: date, lines: int, differences: int) -> None:
        parameters = {"provider": provider, "day": day, "lines": lines, "differences": differences}
        await execute(self._engine, _FINISHED, parameters)

    async def done(self, provider: str, day: date) -> bool:
        return bool(await execute(self._engine, _DONE, {"provider": provider, "day": day}))


def bounds(day: date) -> tuple[datetime, datetime]:
    """A day of UTC, as [begins, ends)."""
    begins = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return begins, begins + timedelta(days=1)


def _entry(row: Any) -> Entry:
    return Entry(
        operation_id=row.operation_id,
        kind=Kind(row.kind),
        progress=Progress(row.progress),
        payment_id=row.payment_id,
        minor=row.amount,
        currency=row.currency,
        posted_minor=row.posted,
    )
