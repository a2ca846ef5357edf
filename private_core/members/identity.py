"""The graph of who is one person, in PostgreSQL: identifiers lead to members, and merged members to others."""

from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh.database.engine import execute, transact
from private_core.members.domain import (
    IdentifierKind,
    Linked,
    identifier_taken,
    merge_impossible,
    no_such_member,
    not_merged,
)
from private_core.members.phone import normalised
from security.keys.blind_index import BlindIndex

# From one member to the one that stands for it: longer chains are not made.
MERGES_DEEP_MAX: Final = 16
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_LINK: Final = text(
    """
    WITH linked AS (
        INSERT INTO members.identifier (kind, value_index, member_id, linked_time)
        SELECT :kind, :value_index, member_id, :now FROM members.member
        WHERE member_id = :member_id AND erased_time IS NULL
        ON CONFLICT (kind, value_index) DO NOTHING RETURNING member_id
    )
    SELECT member_id FROM linked
    UNION ALL SELECT member_id FROM members.identifier WHERE kind = :kind AND value_index = :value_index
    """
)
_OWNER: Final = text(
    """
    SELECT member_id FROM members.identifier WHERE kind = :kind AND value_index = :value_index
    UNION ALL SELECT member_id FROM members.member WHERE :kind = 'phone' AND phone_index = :phone_index
    LIMIT 1
    """
)
# The member and those that it leads to, the last one last.
_LEADS: Final = text(
    """
    WITH RECURSIVE leads AS (
        SELECT member_id, 0 AS depth FROM members.member WHERE member_id = :member_id AND erased_time IS NULL
        UNION ALL
        SELECT merge.kept, depth + 1 FROM leads
        JOIN members.merge ON merge.merged = leads.member_id AND merge.split_time IS NULL
        WHERE depth < :deep
    )
    SELECT member_id FROM leads ORDER BY depth
    """
)
# Over how many merges the farthest member leads to this one.
_HEIGHT: Final = text(
    f"""
    WITH RECURSIVE below AS (
        SELECT CAST(:member_id AS text) AS member_id, 0 AS depth
        UNION ALL
        SELECT merge.merged, depth + 1 FROM below
        JOIN members.merge ON merge.kept = below.member_id AND merge.split_time IS NULL
        WHERE depth < {MERGES_DEEP_MAX}
    )
    SELECT max(depth) FROM below
    """  # noqa: S608
)
_MERGE: Final = text("INSERT INTO members.merge (merged, kept, merged_time) VALUES (:merged, :kept, :now)")
_SPLIT: Final = text(
    "UPDATE members.merge SET split_time = :now WHERE merged = :merged AND split_time IS NULL RETURNING merge_id"
)
_SPLIT_BEFORE: Final = text("SELECT 1 FROM members.merge WHERE merged = :merged LIMIT 1")
# One merge at a time: of two that would each close a circle with the other, the second one sees the first.
_ALONE: Final = text("SELECT pg_advisory_xact_lock(hashtextextended('members.merge', 0))")
_LINKED: Final = text(
    "SELECT kind, linked_time FROM members.identifier WHERE member_id = :member_id ORDER BY linked_time LIMIT 1000"
)


class IdentityGraph:
    """index: keyed for identifiers. phone_index: that of members' own phones, by which they are found as well."""

    def __init__(self, engine: AsyncEngine, index: BlindIndex, phone_index: BlindIndex, region: str) -> None:
        self._engine = engine
        self._index = index
        self._phone_index = phone_index
        self._region = region

    async def link(self, member_id: str, kind: IdentifierKind, value: str, now_us: int) -> None:
        """Raises Absent, and Duplicate when it is another's. Linked already: nothing changes."""
        about = self._about(kind, value)
        if kind is IdentifierKind.PHONE:
            owner = await execute(self._engine, _OWNER, about)
            if owner and owner[0].member_id != member_id:
                raise identifier_taken()
        rows = await execute(self._engine, _LINK, about | {"member_id": member_id, "now": _time(now_us)})
        # Nothing: no such member, or somebody linked it at this very moment.
        rows = rows or await execute(self._engine, _OWNER, about)
        if not rows:
            raise no_such_member()
        if rows[0].member_id != member_id:
            raise identifier_taken()

    async def resolve(self, kind: IdentifierKind, value: str) -> str:
        """The member whom the identifier leads to. Raises Absent."""
        owner = await execute(self._engine, _OWNER, self._about(kind, value))
        leads = await self._leads(owner[0].member_id) if owner else []
        if not leads:
            raise no_such_member()
        return leads[-1]

    async def linked(self, member_id: str) -> list[Linked]:
        """The first one first; at most 1000."""
        rows = await execute(self._engine, _LINKED, {"member_id": member_id})
        return [
            Linked(IdentifierKind(row.kind), (row.linked_time - _EPOCH) // timedelta(microseconds=1)) for row in rows
        ]

    async def merge(self, kept: str, merged: str, now_us: int) -> None:
        """Let `merged` lead to `kept`. Raises Absent, and WrongState for a circle, a second merge, or too long a chain.

        Done already: nothing changes.
        """

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(_ALONE)
            chains = [
                (await connection.execute(_LEADS, {"member_id": each, "deep": MERGES_DEEP_MAX})).scalars().all()
                for each in (kept, merged)
            ]
            if not all(chains):
                raise no_such_member()
            kept_leads, merged_leads = chains
            if len(merged_leads) > 1 and merged_leads[1] == kept:
                return
            deep = len(kept_leads) + (await connection.execute(_HEIGHT, {"member_id": merged})).scalar_one()
            if merged in kept_leads or len(merged_leads) > 1 or deep > MERGES_DEEP_MAX:
                raise merge_impossible()
            await connection.execute(_MERGE, {"merged": merged, "kept": kept, "now": _time(now_us)})

        await transact(self._engine, work)

    async def split(self, merged: str, now_us: int) -> None:
        """Undo the merge of `merged`. Raises WrongState when it never was merged. Undone already: nothing changes."""
        if await execute(self._engine, _SPLIT, {"merged": merged, "now": _time(now_us)}):
            return
        if not await execute(self._engine, _SPLIT_BEFORE, {"merged": merged}):
            raise not_merged()

    async def _leads(self, member_id: str) -> list[str]:
        rows = await execute(self._engine, _LEADS, {"member_id": member_id, "deep": MERGES_DEEP_MAX})
        return [row.member_id for row in rows]

    def _about(self, kind: IdentifierKind, value: str) -> dict[str, str | bytes]:
        value = normalised(value, self._region) if kind is IdentifierKind.PHONE else value.strip()
        return {
            "kind": kind.value,
            "value_index": self._index.of(f"{kind.value}:{value}"),
            "phone_index": self._phone_index.of(value),
        }


def _time(time_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=time_us)
