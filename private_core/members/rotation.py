"""The data keys of all members: under which KEK each is wrapped, and their way to the newest one."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.database.engine import execute
from security.keys.port import KekRef, Kms, WrappedKey
from security.keys.vault import Vault

# Longer than a registration lives, from wrapping its key to its commit.
SETTLED_S: Final = 30.0

_BY_KEK: Final = text(
    "SELECT kek_id, kek_version, count(*) AS data_keys FROM members.data_key GROUP BY 1, 2 ORDER BY 1, 2"
)
_ERASED: Final = text("SELECT count(*) AS members FROM members.member WHERE erased_time IS NOT NULL")
_OLDER: Final = text(
    """
    SELECT subject, key_id, kek_id, kek_version, wrapped FROM members.data_key
    WHERE (kek_id, kek_version) <> (:kek_id, :kek_version) ORDER BY subject LIMIT :limit
    """
)
# Only while the row still is what was unwrapped: an erased member's key must not come back.
_REPLACE: Final = text(
    """
    UPDATE members.data_key AS data_key
    SET kek_id = :kek_id, kek_version = :kek_version, wrapped = new.wrapped
    FROM unnest(CAST(:subjects AS text[]), CAST(:old AS bytea[]), CAST(:new AS bytea[])) AS new (subject, old, wrapped)
    WHERE data_key.subject = new.subject AND data_key.wrapped = new.old
    RETURNING data_key.subject
    """
)


@dataclass(frozen=True, slots=True)
class KekUse:
    """held: whether the KMS has it."""

    kek: KekRef
    held: bool
    data_keys: int


@dataclass(frozen=True, slots=True)
class KeyStatus:
    keks: list[KekUse]
    # Data keys that are not under the newest KEK.
    remaining: int
    erased: int


class KeyRotation:
    """Without downtime: every KEK unwraps until nothing is wrapped under it any more."""

    def __init__(self, engine: AsyncEngine, kms: Kms, vault: Vault, settled_s: float = SETTLED_S) -> None:
        self._engine = engine
        self._kms = kms
        self._vault = vault
        self._settled_s = settled_s

    async def status(self) -> KeyStatus:
        used = {KekRef(row.kek_id, row.kek_version): int(row.data_keys) for row in await execute(self._engine, _BY_KEK)}
        held = await self._kms.held()
        keks = sorted({*held, *used}, key=lambda kek: (kek in held, kek.version))
        erased = int((await execute(self._engine, _ERASED))[0].members)
        remaining = sum(count for kek, count in used.items() if kek != held[-1])
        return KeyStatus([KekUse(kek, kek in held, used.get(kek, 0)) for kek in keks], remaining, erased)

    async def add(self, newest_version: int) -> int:
        """A new KEK, unless there is one newer than `newest_version`. Gives the newest version."""
        return (await self._kms.rotate(newest_version)).version

    async def rewrap(self, limit: int) -> tuple[int, int]:
        """Wrap up to `limit` data keys under the newest KEK. Gives how many, and how many remain.

        Raises KekUnknown or EnvelopeRejected for a row that no KEK opens: it is never passed over.
        """
        newest = (await self._kms.held())[-1]
        about = {"kek_id": newest.id, "kek_version": newest.version}
        rows = await execute(self._engine, _OLDER, about | {"limit": limit})
        subjects, old, new = [], [], []
        for row in rows:
            wrapped = WrappedKey(bytes(row.key_id), KekRef(row.kek_id, row.kek_version), bytes(row.wrapped))
            again = await self._vault.rewrap(wrapped, row.subject)
            if again.kek == newest:
                subjects.append(row.subject)
                old.append(wrapped.ciphertext)
                new.append(again.ciphertext)
        replaced = await execute(self._engine, _REPLACE, about | {"subjects": subjects, "old": old, "new": new})
        return len(replaced), (await self.status()).remaining

    async def retire(self) -> list[int]:
        """Destroy the KEKs that wrap nothing. Gives their versions. Raises KeyringBusy right after a rotation."""
        idle = [use.kek.version for use in (await self.status()).keks if use.held and not use.data_keys]
        return list(await self._kms.retire(idle, self._settled_s))
