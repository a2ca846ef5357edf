"""The region of a store: said by the first process that serves it, and by all others after it."""

from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.database.engine import execute
from mesh.errors import FailedPrecondition

_SETTLE: Final = text(
    """
    WITH settled AS (
        INSERT INTO members.residence (region) VALUES (:region) ON CONFLICT (one_row) DO NOTHING RETURNING region
    )
    SELECT region FROM settled UNION ALL SELECT region FROM members.residence
    """
)


async def require_region(engine: AsyncEngine, region: str) -> None:
    """Raise FailedPrecondition REGION_OTHER when the store, or what it was restored from, is another region's."""
    rows = await execute(engine, _SETTLE, {"region": region})
    # None: another process settled it at this very moment.
    rows = rows or await execute(engine, _SETTLE, {"region": region})
    if rows[0].region != region:
        raise FailedPrecondition(
            "REGION_OTHER",
            f"this store holds members of {rows[0].region}, and this process runs for {region}",
            remedy="run it in the store's region, or with the store of its own (ISTHMUS_REGION, ISTHMUS_DATABASE_URL)",
        )
