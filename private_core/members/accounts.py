"""The accounts of members whom retention erased go too, as soon as the authorization server answers.

After the member and not before: until they are erased they may come back, and need their account for it.
"""

from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.clock import Clock
from mesh.database.engine import execute
from private_core.members.domain import Accounts
from private_core.times import to_datetime

INTERVAL_S: Final = 600.0
_BATCH: Final = 100
_BATCHES_MAX: Final = 100

_LEFT: Final = text(
    "SELECT member_id FROM members.member WHERE erased_time IS NOT NULL AND account_erased_time IS NULL"
    " ORDER BY erased_time LIMIT :limit"
)
_GONE: Final = text(
    "UPDATE members.member SET account_erased_time = :now WHERE member_id = :member_id AND account_erased_time IS NULL"
)


class AccountErasure:
    """Harmless in several replicas at once: an account that is gone is no error."""

    def __init__(self, engine: AsyncEngine, accounts: Accounts, clock: Clock) -> None:
        self._engine = engine
        self._accounts = accounts
        self._clock = clock

    async def round(self) -> int:
        """Erase the accounts that are left. Gives how many. Raises MeshError: the rest is for the next round."""
        gone = 0
        for _ in range(_BATCHES_MAX):
            left = [row.member_id for row in await execute(self._engine, _LEFT, {"limit": _BATCH})]
            for member_id in left:
                await self._accounts.erase(member_id)
                values = {"member_id": member_id, "now": to_datetime(self._clock.now_us())}
                await execute(self._engine, _GONE, values)
            gone += len(left)
            if len(left) < _BATCH:
                break
        return gone
