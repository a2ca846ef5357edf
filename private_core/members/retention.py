"""What is personal about a member goes when they have not been there for as long as the contract keeps its class.

First the columns of the classes that are kept for less long: what remains is sealed under a new data key and the old
one is destroyed, so that they are gone from every copy. Then the member, as by `isthmus keys shred`. Each is on record,
by the member's id, in the transaction that does it.
"""

from datetime import datetime
from typing import Any, Final

from isthmus.members.v1 import members_pb2
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh.contract import Contract
from mesh.database.engine import execute, transact
from private_core.members.store import ERASE, MEMBER
from private_core.storage.encrypted import RowCipher, only_envelopes
from private_core.times import to_datetime
from security.audit.removal import Moment, Remover
from security.audit.transactional import record
from security.keys.port import KekRef, WrappedKey
from security.keys.vault import Vault

INTERVAL_S: Final = 3600.0
PLACE: Final = "members.member"
_BATCH: Final = 100
_BATCHES_MAX: Final = 100

# Who is merged with somebody that was there since is one person with them, and so was there.
_UNUSED: Final = """
    member.erased_time IS NULL AND member.used_time < :before AND NOT EXISTS (
        SELECT FROM members.merge JOIN members.member AS other
            ON other.member_id = CASE member.member_id WHEN merge.merged THEN merge.kept ELSE merge.merged END
        WHERE member.member_id IN (merge.merged, merge.kept) AND merge.split_time IS NULL
            AND other.used_time >= :before
    )
    ORDER BY member.used_time LIMIT :limit
    """
_PAST: Final = text(
    f"SELECT member.member_id FROM members.member WHERE {_UNUSED} FOR UPDATE OF member SKIP LOCKED"  # noqa: S608
)
_THICK: Final = text(
    f"""
    SELECT member.*, key_id, kek_id, kek_version, wrapped FROM members.member
    JOIN members.data_key ON subject = member.member_id WHERE member.thinned_time IS NULL AND {_UNUSED}
    """  # noqa: S608
)
# Only while it is the key that was opened: it may have been wrapped anew since, or destroyed.
_REKEY: Final = text(
    """
    UPDATE members.data_key SET key_id = :key_id, kek_id = :kek_id, kek_version = :kek_version, wrapped = :wrapped
    WHERE subject = :member_id AND wrapped = :old
    """
)


class _Returned(Exception):
    """The member was there just now, so everything stays as it was."""


class MemberRetention:
    """Harmless in several replicas at once."""

    def __init__(self, engine: AsyncEngine, vault: Vault, contract: Contract, remover: Remover) -> None:
        self._engine = engine
        self._vault = vault
        self._remover = remover
        self._cipher = RowCipher(MEMBER, vault.tenant)
        fields = contract.fields(members_pb2.Member.DESCRIPTOR.full_name)
        days = {column: contract.kept_days[fields[column].data_class] for column in self._cipher.columns}
        # 0 is for ever. A member goes with what is kept longest of them.
        self.erased_after = 0 if 0 in days.values() else max(days.values())
        self.thin = tuple(column for column, kept in days.items() if kept and kept != self.erased_after)
        self.thinned_after = min((days[column] for column in self.thin), default=0)
        cleared = ", ".join(f"{column} = :{column}" for column in self._cipher.columns)
        clear = text(
            f"UPDATE members.member SET thinned_time = :now, {cleared}"  # noqa: S608
            " WHERE member_id = :member_id AND used_time < :before AND thinned_time IS NULL"
        )
        self._clear = only_envelopes(clear, MEMBER)

    async def round(self) -> int:
        """Erase and thin out whoever is past it. Gives how many members. Raises MeshError."""
        moment = await self._remover.moment(self._engine)
        return await self._erase(moment) + await self._thin_out(moment)

    async def _erase(self, moment: Moment) -> int:
        gone = 0
        for _ in range(_BATCHES_MAX if self.erased_after else 0):
            erased = await transact(self._engine, lambda connection: self._erase_some(connection, moment))
            for member_id in erased:
                self._vault.forget(member_id)
            gone += len(erased)
            if len(erased) < _BATCH:
                break
        return gone

    async def _erase_some(self, connection: AsyncConnection, moment: Moment) -> list[str]:
        before, now = to_datetime(moment.before_us(self.erased_after)), to_datetime(moment.now_us)
        found = await connection.execute(_PAST, {"before": before, "limit": _BATCH})
        erased = [str(member_id) for member_id in found.scalars()]
        for member_id in erased:
            about = {"member_id": member_id, "now": now, "account_erased_time": None}
            await connection.execute(ERASE, about)
            await record(connection, self._remover.record(PLACE, 1, member_id))
        return erased

    async def _thin_out(self, moment: Moment) -> int:
        gone = 0
        before, now = to_datetime(moment.before_us(self.thinned_after)), to_datetime(moment.now_us)
        for _ in range(_BATCHES_MAX if self.thin else 0):
            rows = await execute(self._engine, _THICK, {"before": before, "limit": _BATCH})
            # The keys' own system may be slow, and no row is locked while it is asked.
            thinned = [await self._thin_one(row, before, now) for row in rows]
            gone += sum(thinned)
            if len(rows) < _BATCH or not any(thinned):
                break
        return gone

    async def _thin_one(self, row: Any, before: datetime, now: datetime) -> bool:
        member_id: str = row.member_id
        wrapped = WrappedKey(bytes(row.key_id), KekRef(row.kek_id, row.kek_version), bytes(row.wrapped))
        stored = {column: getattr(row, column) for column in self._cipher.columns}
        clear = self._cipher.open(await self._vault.key(wrapped, member_id), member_id, stored)
        key, new = await self._vault.new_key(member_id)
        sealed = self._cipher.seal(key, member_id, clear | dict.fromkeys(self.thin, ""))
        about: dict[str, Any] = {"member_id": member_id, "before": before, "now": now}
        about |= sealed
        rekeyed = {"key_id": new.key_id, "kek_id": new.kek.id, "kek_version": new.kek.version}
        rekeyed |= {"wrapped": new.ciphertext, "old": wrapped.ciphertext, "member_id": member_id}

        async def work(connection: AsyncConnection) -> None:
            for statement, values in ((_REKEY, rekeyed), (self._clear, about)):
                if not (await connection.execute(statement, values)).rowcount:
                    raise _Returned
            for column in self.thin:
                await record(connection, self._remover.record(f"{PLACE}.{column}", 1, member_id))

        try:
            await transact(self._engine, work)
        except _Returned:
            return False
        self._vault.forget(member_id)
        return True
