"""Members in PostgreSQL: particulars as envelopes, the phone's blind index for equality, data keys apart."""

import contextlib
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from psycopg.errors import UniqueViolation
from sqlalchemy import Column, DateTime, Integer, LargeBinary, MetaData, Table, Text, bindparam, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh.clock import Clock, SystemClock
from mesh.database.engine import execute, transact
from private_core.members.domain import Consent, Member, Particulars, Purpose, region_other, registered_already
from private_core.storage.encrypted import Encrypted, RowCipher, only_envelopes
from private_core.storage.idempotency import Answer, Idempotency, Intent
from security.audit import attached
from security.audit.attached import RECORDED
from security.keys.blind_index import BlindIndex
from security.keys.errors import KekUnknown
from security.keys.port import KekRef, WrappedKey
from security.keys.vault import Vault

SCHEMA: Final = "members"
_METADATA: Final = MetaData(schema=SCHEMA)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# Retention counts in years: one write a day says well enough that a member is there.
_USED_EVERY: Final = timedelta(days=1)

MEMBER: Final = Table(
    "member",
    _METADATA,
    Column("member_id", Text, primary_key=True),
    Column("phone_index", LargeBinary, nullable=False, unique=True),
    Column("phone", Encrypted, nullable=False),
    Column("name", Encrypted, nullable=False),
    Column("address", Encrypted, nullable=False),
    Column("registered_time", DateTime(timezone=True), nullable=False),
    # Of the day that the member was last there.
    Column("used_time", DateTime(timezone=True), nullable=False),
)
# One row per member. Without it, all copies of the member's values are noise.
DATA_KEY: Final = Table(
    "data_key",
    _METADATA,
    Column("subject", Text, primary_key=True),
    Column("key_id", LargeBinary, nullable=False),
    Column("kek_id", Text, nullable=False),
    Column("kek_version", Integer, nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
)

# Built once: SQLAlchemy takes longer to build a statement than PostgreSQL to run it.
_FIND: Final = (
    select(MEMBER, DATA_KEY)
    .join(DATA_KEY, DATA_KEY.c.subject == MEMBER.c.member_id)
    .where(MEMBER.c.member_id == bindparam("wanted"))
)
_CONSENTED: Final = text(
    "SELECT granted FROM members.consent WHERE member_id = :member_id AND purpose = :purpose"
    " ORDER BY consent_id DESC LIMIT 1"
)
# One that says what is so already is not written again.
_CONSENT: Final = text(
    """
    INSERT INTO members.consent (member_id, purpose, granted, given_time)
    SELECT member_id, :purpose, :granted, :now FROM members.member
    WHERE member_id = :member_id AND erased_time IS NULL AND :granted IS DISTINCT FROM coalesce((
        SELECT granted FROM members.consent WHERE member_id = :member_id AND purpose = :purpose
        ORDER BY consent_id DESC LIMIT 1
    ), false)
    """
)
_CONSENTS: Final = text(
    """
    SELECT * FROM (
        SELECT consent_id, purpose, granted, given_time FROM members.consent WHERE member_id = :member_id
        ORDER BY consent_id DESC LIMIT 1000
    ) AS newest ORDER BY consent_id
    """
)
_EXISTS: Final = text("SELECT used_time FROM members.member WHERE member_id = :wanted AND erased_time IS NULL")
_COUNT: Final = text("SELECT count(*) FROM members.member WHERE erased_time IS NULL")
# One round trip. The record of the intent hangs on the member: of a phone that is taken, or an intent that is known,
# nothing is stored.
_REGISTER: Final = only_envelopes(
    text(
        f"""
        WITH added AS (
            INSERT INTO members.member
                (member_id, phone_index, phone, name, address, registered_time, used_time, region)
            SELECT :member_id, :phone_index, :phone, :name, :address, :registered_time, :registered_time, :region
            WHERE NOT EXISTS (SELECT FROM members.idempotency WHERE intent = :intent)
            ON CONFLICT (phone_index) DO NOTHING RETURNING member_id
        ), keyed AS (
            INSERT INTO members.data_key (subject, key_id, kek_id, kek_version, wrapped)
            SELECT member_id, :key_id, :kek_id, :kek_version, :wrapped FROM added
        ), claimed AS (
            INSERT INTO members.idempotency (intent, body, answer, refusal)
            SELECT :intent, :body, :answer, :refusal FROM added
        ), recorded AS ({RECORDED.format(of="added")})
        SELECT member_id FROM added
        """  # noqa: S608
    ),
    MEMBER,
)
ERASE: Final = text(
    """
    WITH destroyed AS (
        DELETE FROM members.data_key WHERE subject = :member_id
    ), forgotten AS (
        DELETE FROM members.identifier WHERE member_id = :member_id
    ), ungraded AS (
        DELETE FROM members.grade WHERE subject = :member_id
    ), split AS (
        UPDATE members.merge SET split_time = :now WHERE :member_id IN (merged, kept) AND split_time IS NULL
    )
    UPDATE members.member SET erased_time = coalesce(erased_time, :now),
        account_erased_time = coalesce(account_erased_time, :account_erased_time),
        phone_index = NULL, phone = NULL, name = NULL, address = NULL
    WHERE member_id = :member_id RETURNING erased_time
    """
)
_USED: Final = text(
    "UPDATE members.member SET used_time = greatest(used_time, :now) WHERE member_id = :member_id"
    " AND erased_time IS NULL AND used_time < :stale"
)
_KEKS: Final = select(DATA_KEY.c.kek_id, DATA_KEY.c.kek_version).distinct()


class MemberStore:
    def __init__(
        self, engine: AsyncEngine, vault: Vault, phone_index: BlindIndex, region: str, clock: Clock | None = None
    ) -> None:
        self._engine = engine
        self._region = region
        self._clock = clock or SystemClock()
        self._vault = vault
        self._phone_index = phone_index
        self._cipher = RowCipher(MEMBER, vault.tenant)
        self._idempotency = Idempotency(SCHEMA)

    async def require_keks(self, held: Collection[KekRef]) -> None:
        """Raise KekUnknown when a data key needs a KEK that is not there: no service is better than a blind one."""
        async with self._engine.connect() as connection:
            for kek_id, kek_version in (await connection.execute(_KEKS)).all():
                kek = KekRef(kek_id, kek_version)
                if kek not in held:
                    raise KekUnknown(str(kek))

    def require_here(self, region: str) -> None:
        """Raise WrongState for a member of another region. Empty: of this one."""
        if region not in ("", self._region):
            raise region_other()

    async def register(self, intent: Intent, member: Member, answer: Answer) -> Answer | None:
        """Store the member, and `answer` for the intent's repetitions; or give the answer of the first time.

        Raises Duplicate when a member has this phone already; nothing is stored then.
        """
        particulars = member.particulars
        key, wrapped = await self._vault.new_key(member.member_id)
        sealed = self._cipher.seal(
            key,
            member.member_id,
            {"phone": particulars.phone, "name": particulars.name, "address": particulars.address},
        )
        values = {
            "member_id": member.member_id,
            "region": self._region,
            "phone_index": self._phone_index.of(particulars.phone),
            "registered_time": _EPOCH + timedelta(microseconds=member.registered_time_us),
            "key_id": wrapped.key_id,
            "kek_id": wrapped.kek.id,
            "kek_version": wrapped.kek.version,
            "wrapped": wrapped.ciphertext,
        }
        values |= sealed
        # Two calls with one key and two phones at once: the second finds the key taken when it is too late to look.
        with contextlib.suppress(UniqueViolation):
            if await execute(self._engine, _REGISTER, values | intent.parameters | answer.parameters | answer.audited):
                attached.committed()
                return None

        earlier = await transact(self._engine, lambda tx: self._idempotency.earlier(tx, intent))
        if earlier is None:
            raise registered_already()
        return earlier

    async def find(self, member_id: str) -> Member | None:
        """The member with their particulars in clear; None when there is no such member, or their key is gone."""

        async def work(connection: AsyncConnection) -> Member | None:
            row = (await connection.execute(_FIND, {"wanted": member_id})).mappings().first()
            if row is None:
                return None
            if self._stale(row[MEMBER.c.used_time]):
                await connection.execute(_USED, self._use_of(member_id))
            kek = KekRef(row[DATA_KEY.c.kek_id], row[DATA_KEY.c.kek_version])
            wrapped = WrappedKey(bytes(row[DATA_KEY.c.key_id]), kek, bytes(row[DATA_KEY.c.wrapped]))
            key = await self._vault.key(wrapped, member_id)
            opened = self._cipher.open(key, member_id, {name: row[name] for name in self._cipher.columns})
            registered_us = (row[MEMBER.c.registered_time] - _EPOCH) // timedelta(microseconds=1)
            return Member(member_id, Particulars(**opened), registered_us)

        return await transact(self._engine, work)

    async def consented(self, member_id: str, purpose: Purpose) -> bool:
        """Whether the member consents at this moment."""
        rows = await execute(self._engine, _CONSENTED, {"member_id": member_id, "purpose": purpose.value})
        return bool(rows and rows[0].granted)

    async def set_consent(self, member_id: str, purpose: Purpose, granted: bool, now_us: int) -> None:
        now = _EPOCH + timedelta(microseconds=now_us)
        values = {"member_id": member_id, "purpose": purpose.value, "granted": granted, "now": now}
        await execute(self._engine, _CONSENT, values)

    async def consents(self, member_id: str) -> list[Consent]:
        """The newest 1000, the first one first."""
        return [
            Consent(Purpose(row.purpose), row.granted, (row.given_time - _EPOCH) // timedelta(microseconds=1))
            for row in await execute(self._engine, _CONSENTS, {"member_id": member_id})
        ]

    async def exists(self, member_id: str) -> bool:
        rows = await execute(self._engine, _EXISTS, {"wanted": member_id})
        if rows and self._stale(rows[0].used_time):
            await self.used(member_id)
        return bool(rows)

    async def used(self, member_id: str) -> None:
        """Say that the member was there: what is personal about them is kept from now on for as long as its class."""
        await execute(self._engine, _USED, self._use_of(member_id))

    async def count(self) -> int:
        count: int = (await execute(self._engine, _COUNT))[0][0]
        return count

    async def erase(self, member_id: str, now_us: int) -> int | None:
        """Destroy the data key and envelopes of a member who has no account any more.

        Gives when that was first done; None: no such member.

        What the key sealed is noise from then on, wherever a copy of it lies.
        """
        now = _EPOCH + timedelta(microseconds=now_us)
        about = {"member_id": member_id, "now": now, "account_erased_time": now}
        rows = await execute(self._engine, ERASE, about)
        self._vault.forget(member_id)
        return (rows[0].erased_time - _EPOCH) // timedelta(microseconds=1) if rows else None

    def _stale(self, used_time: datetime) -> bool:
        return self._now() - used_time >= _USED_EVERY

    def _use_of(self, member_id: str) -> dict[str, Any]:
        now = self._now()
        return {"member_id": member_id, "now": now, "stale": now - _USED_EVERY}

    def _now(self) -> datetime:
        return _EPOCH + timedelta(microseconds=self._clock.now_us())
