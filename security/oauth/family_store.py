"""Families of refresh tokens and revocations in PostgreSQL. What changes and its audit record are one transaction."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from datetime import datetime

from sqlalchemy import (
    Column,
    Connection,
    DateTime,
    LargeBinary,
    Select,
    Table,
    Text,
    delete,
    exists,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert

from security.audit.record import AuditRecord
from security.audit.transactional import insert as audit
from security.oauth.domain import REFRESH_GRACE, REFRESH_LIFE, TOKEN_LIFE, Family, RefreshUse, refresh_use
from security.oauth.session_store import CONSENTS, SESSIONS
from security.oauth.store import ACCOUNTS, SWEEP_ROWS_MAX, digest, metadata
from security.oauth.transactions import Transactions
from security.tokens.revocation import REVOCATIONS_MAX, Kind, Revocation

FAMILIES = Table(
    "families",
    metadata,
    Column("family_id", Text, primary_key=True),
    Column("client_id", Text, nullable=False),
    Column("member_id", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("signed_in_at", DateTime(timezone=True), nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("ended_at", DateTime(timezone=True)),
    Column("key_thumbprint", Text),
    Column("context", Text, nullable=False),
    Column("methods", Text, nullable=False),
)
REFRESH_TOKENS = Table(
    "refresh_tokens",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("family_id", Text, nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("used_at", DateTime(timezone=True)),
    Column("successor", LargeBinary),
    # What was answered, sealed under the token that was shown: who reads the table can open nothing.
    Column("answer", LargeBinary),
)
REVOCATIONS = Table(
    "revocations",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("revoked_at", DateTime(timezone=True), nullable=False),
    # When the last token that this is about has ended by itself.
    Column("until", DateTime(timezone=True), nullable=False),
)
PROOFS = Table(
    "proofs",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("expires_at", DateTime(timezone=True), nullable=False),
)

Record = Callable[[Family], AuditRecord]


@dataclass(frozen=True)
class Shown:
    """A refresh token as it was found."""

    family: Family
    live: bool


@dataclass(frozen=True)
class Rotation:
    """What became of a rotation. `answer` is the sealed answer of whoever was first, when it is REPEATED."""

    use: RefreshUse
    answer: bytes | None = None


class FamilyStore:
    """Call it from a thread. Every method is one transaction and raises what Transactions does."""

    def __init__(self, transactions: Transactions) -> None:
        self._transaction = transactions.begin

    def write(self, *records: AuditRecord) -> None:
        """Keep audit records of what changes nothing here."""
        with self._transaction() as connection:
            audit(connection, *records)

    def begin(self, family: Family, token: str | None, now: datetime, record: AuditRecord) -> bool:
        """A family with its first refresh token, if it gets one. False if it has been ended before it began."""
        ended = (REVOCATIONS.c.kind == Kind.FAMILY.value) & (REVOCATIONS.c.name == family.family_id)
        with self._transaction() as connection:
            _alone(connection, family.family_id)
            if connection.execute(select(REVOCATIONS.c.name).where(ended)).one_or_none() is not None:
                return False
            connection.execute(insert(FAMILIES).values(**asdict(family)))
            if token is not None:
                self._add(connection, token, family, now)
            audit(connection, record)
        return True

    def find(self, token: str, now: datetime) -> Shown | None:
        """The family of a refresh token, whatever became of it."""
        with self._transaction() as connection:
            row = connection.execute(_with_token(token)).one_or_none()
        if row is None:
            return None
        live = row.used_at is None and row.ended_at is None and now < min(row.token_expires_at, row.expires_at)
        return Shown(Family(**{name: getattr(row, name) for name in _FAMILY}), live)

    def rotate(
        self, token: str, successor: str, answer: bytes, now: datetime, rotated: Record, reused: Record
    ) -> Rotation:
        """Use a refresh token up. Of any number who show the same one, on whichever replica, one rotates it.

        rotated, reused: what goes on record with either.
        """
        with self._transaction() as connection:
            wanted = select(REFRESH_TOKENS).where(REFRESH_TOKENS.c.digest == digest(token))
            known = connection.execute(wanted).one_or_none()
            if known is None:
                return Rotation(RefreshUse.UNKNOWN)
            _alone(connection, known.family_id)
            # Read again: others may have been first.
            shown = connection.execute(wanted).one()
            row = connection.execute(select(FAMILIES).where(FAMILIES.c.family_id == known.family_id)).one()
            heir = select(REFRESH_TOKENS.c.used_at).where(REFRESH_TOKENS.c.digest == shown.successor)
            family = Family(**{name: getattr(row, name) for name in _FAMILY})
            use = refresh_use(
                now=now,
                expires_at=shown.expires_at,
                family_ends=family.expires_at,
                ended=row.ended_at is not None,
                used_at=shown.used_at,
                passed_on=connection.execute(heir).scalar_one_or_none() is not None,
            )
            if use is RefreshUse.REUSED:
                self._end(connection, family.family_id, now)
                audit(connection, reused(family))
            elif use is RefreshUse.ROTATED:
                self._add(connection, successor, family, now)
                connection.execute(
                    update(REFRESH_TOKENS)
                    .where(REFRESH_TOKENS.c.digest == digest(token))
                    .values(used_at=now, successor=digest(successor), answer=answer)
                )
                audit(connection, rotated(family))
        return Rotation(use, bytes(shown.answer) if use is RefreshUse.REPEATED else None)

    def end(self, family_id: str, now: datetime, record: AuditRecord) -> None:
        """End a family, its access tokens included; one that does not stand yet will never begin."""
        with self._transaction() as connection:
            _alone(connection, family_id)
            self._end(connection, family_id, now)
            audit(connection, record)

    def end_all(self, member_id: str, now: datetime, record: AuditRecord) -> None:
        """End everything that a member has open anywhere: sessions, families, and access tokens made until now.

        Of an id that is no member's nothing is written: whoever calls may have put anything in its place.
        """
        own = (ACCOUNTS.c.member_id, FAMILIES.c.member_id)
        with self._transaction() as connection:
            # Tokens outlive an erased account, and their family is there for as long.
            if not any(connection.execute(select(exists().where(each == member_id))).scalar_one() for each in own):
                return
            connection.execute(delete(SESSIONS).where(SESSIONS.c.member_id == member_id))
            live = (FAMILIES.c.member_id == member_id) & FAMILIES.c.ended_at.is_(None)
            connection.execute(update(FAMILIES).where(live).values(ended_at=now))
            self._revoke(connection, Kind.SUBJECT, member_id, now, now + TOKEN_LIFE)
            audit(connection, record)

    def withdraw(self, member_id: str, client_id: str, now: datetime, record: AuditRecord) -> bool:
        """Take back what a member allowed a client, with all that came of it. False if nothing was allowed."""
        allowed = (CONSENTS.c.member_id == member_id) & (CONSENTS.c.client_id == client_id)
        live = (FAMILIES.c.member_id == member_id) & (FAMILIES.c.client_id == client_id) & FAMILIES.c.ended_at.is_(None)
        with self._transaction() as connection:
            if connection.execute(delete(CONSENTS).where(allowed)).rowcount == 0:
                return False
            for family_id in connection.execute(select(FAMILIES.c.family_id).where(live)).scalars().all():
                self._end(connection, family_id, now)
            audit(connection, record)
        return True

    def revoke_token(self, token_id: str, until: datetime, now: datetime, record: AuditRecord) -> None:
        """Revoke one access token."""
        with self._transaction() as connection:
            self._revoke(connection, Kind.TOKEN, token_id, now, until)
            audit(connection, record)

    def revocations(self, now: datetime) -> list[Revocation]:
        """Every revocation that some living token may be under, newest first, REVOCATIONS_MAX at most."""
        wanted = select(REVOCATIONS).where(REVOCATIONS.c.until > now).order_by(REVOCATIONS.c.revoked_at.desc())
        with self._transaction() as connection:
            rows = connection.execute(wanted.limit(REVOCATIONS_MAX)).all()
        return [Revocation(Kind(row.kind), row.name, int(row.revoked_at.timestamp())) for row in rows]

    def use_proof(self, proof: str, expires_at: datetime) -> bool:
        """Note a proof that is good once until `expires_at`; False if it was noted before."""
        noted = upsert(PROOFS).values(digest=digest(proof), expires_at=expires_at).on_conflict_do_nothing()
        with self._transaction() as connection:
            return connection.execute(noted.returning(PROOFS.c.digest)).one_or_none() is not None

    def sweep(self, now: datetime) -> None:
        """Drop what has ended by itself, SWEEP_ROWS_MAX of each at a time; and sealed answers past their grace."""
        with self._transaction() as connection:
            for table, key, ends in (
                (REFRESH_TOKENS, REFRESH_TOKENS.c.digest, REFRESH_TOKENS.c.expires_at),
                (FAMILIES, FAMILIES.c.family_id, FAMILIES.c.expires_at),
                (PROOFS, PROOFS.c.digest, PROOFS.c.expires_at),
            ):
                old = select(key).where(ends <= now).limit(SWEEP_ROWS_MAX)
                connection.execute(delete(table).where(key.in_(old)))
            connection.execute(delete(REVOCATIONS).where(REVOCATIONS.c.until <= now))
            over = REFRESH_TOKENS.c.answer.is_not(None) & (REFRESH_TOKENS.c.used_at < now - REFRESH_GRACE)
            kept = select(REFRESH_TOKENS.c.digest).where(over).limit(SWEEP_ROWS_MAX)
            connection.execute(update(REFRESH_TOKENS).where(REFRESH_TOKENS.c.digest.in_(kept)).values(answer=None))

    def _add(self, connection: Connection, token: str, family: Family, now: datetime) -> None:
        expires_at = min(now + REFRESH_LIFE, family.expires_at)
        connection.execute(
            insert(REFRESH_TOKENS).values(digest=digest(token), family_id=family.family_id, expires_at=expires_at)
        )

    def _end(self, connection: Connection, family_id: str, now: datetime) -> None:
        connection.execute(
            update(FAMILIES)
            .where(FAMILIES.c.family_id == family_id, FAMILIES.c.ended_at.is_(None))
            .values(ended_at=now)
        )
        self._revoke(connection, Kind.FAMILY, family_id, now, now + TOKEN_LIFE)

    def _revoke(self, connection: Connection, kind: Kind, name: str, now: datetime, until: datetime) -> None:
        added = upsert(REVOCATIONS).values(kind=kind.value, name=name, revoked_at=now, until=until)
        later = {"revoked_at": added.excluded.revoked_at, "until": func.greatest(REVOCATIONS.c.until, until)}
        connection.execute(added.on_conflict_do_update(index_elements=["kind", "name"], set_=later))


def _alone(connection: Connection, family_id: str) -> None:
    """Until the transaction ends: rotation, reuse and end of one family come one after the other."""
    connection.execute(select(func.pg_advisory_xact_lock(func.hashtext(family_id))))


_FAMILY = tuple(each.name for each in fields(Family))


def _with_token(token: str) -> Select[tuple[object, ...]]:
    return (
        select(FAMILIES, REFRESH_TOKENS.c.used_at, REFRESH_TOKENS.c.expires_at.label("token_expires_at"))
        .join(REFRESH_TOKENS, REFRESH_TOKENS.c.family_id == FAMILIES.c.family_id)
        .where(REFRESH_TOKENS.c.digest == digest(token))
    )
