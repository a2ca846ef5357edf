"""Who is away at an identity provider, and who there is which member, in PostgreSQL."""

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Column, DateTime, LargeBinary, Table, Text, UniqueConstraint, delete, insert, select
from sqlalchemy.dialects.postgresql import insert as upsert

from security.audit.record import AuditRecord
from security.audit.transactional import insert as audit
from security.oauth.domain import Departure
from security.oauth.store import SWEEP_ROWS_MAX, digest, metadata
from security.oauth.transactions import Transactions

DEPARTURES = Table(
    "departures",
    metadata,
    # SHA-256 of the state, and of the cookie of the browser that carries it: the table is of use to nobody.
    Column("digest", LargeBinary, primary_key=True),
    Column("provider", Text, nullable=False),
    Column("browser", LargeBinary, nullable=False),
    Column("departure", Text, nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
)
IDENTITIES = Table(
    "identities",
    metadata,
    # HMAC of who says so and of whom: equality without either.
    Column("identity", LargeBinary, primary_key=True),
    Column("member_id", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("connected_at", DateTime(timezone=True), nullable=False),
    UniqueConstraint("member_id", "provider"),
)


@dataclass(frozen=True)
class Connected:
    """As it is listed."""

    provider: str
    connected_at: datetime


class FederationStore:
    """Call it from a thread. Every method is one transaction and raises what Transactions does."""

    def __init__(self, transactions: Transactions) -> None:
        self._transaction = transactions.begin

    def depart(self, state: str, provider: str, cookie: str, departure: Departure, expires_at: datetime) -> None:
        """Note that this browser is on its way."""
        values = {"digest": digest(state), "provider": provider, "browser": digest(cookie), "expires_at": expires_at}
        with self._transaction() as connection:
            connection.execute(insert(DEPARTURES).values(departure=json.dumps(asdict(departure)), **values))

    def away(self, state: str, provider: str, cookie: str, now: datetime) -> Departure | None:
        """The departure of this browser to this provider with this state."""
        with self._transaction() as connection:
            found = connection.execute(select(DEPARTURES.c.departure).where(_of(state, provider, cookie, now)))
            return _departure(found.scalar_one_or_none())

    def arrive(self, state: str, provider: str, cookie: str, now: datetime) -> Departure | None:
        """The same, once: on whichever replica, a second arrival finds nothing."""
        taken = delete(DEPARTURES).where(_of(state, provider, cookie, now)).returning(DEPARTURES.c.departure)
        with self._transaction() as connection:
            return _departure(connection.execute(taken).scalar_one_or_none())

    def connect(self, identity: bytes, member_id: str, provider: str, now: datetime, record: AuditRecord) -> bool:
        """Connect somebody there with a member here. False if they are somebody here, or the member has another."""
        values = {"identity": identity, "member_id": member_id, "provider": provider, "connected_at": now}
        added = upsert(IDENTITIES).values(values).on_conflict_do_nothing()
        with self._transaction() as connection:
            if connection.execute(added.returning(IDENTITIES.c.member_id)).one_or_none() is None:
                return False
            audit(connection, record)
        return True

    def member(self, identity: bytes, provider: str) -> str | None:
        """The member whom this identity was connected with by way of this provider."""
        own = (IDENTITIES.c.identity == identity) & (IDENTITIES.c.provider == provider)
        with self._transaction() as connection:
            return connection.execute(select(IDENTITIES.c.member_id).where(own)).scalar_one_or_none()

    def connected(self, member_id: str) -> list[Connected]:
        """A member's connections, the first one first."""
        own = select(IDENTITIES).where(IDENTITIES.c.member_id == member_id).order_by(IDENTITIES.c.connected_at)
        with self._transaction() as connection:
            return [Connected(row.provider, row.connected_at) for row in connection.execute(own)]

    def disconnect(self, member_id: str, provider: str, record: AuditRecord) -> bool:
        """Forget a member's connection; False if there is none with this provider."""
        own = (IDENTITIES.c.member_id == member_id) & (IDENTITIES.c.provider == provider)
        with self._transaction() as connection:
            if connection.execute(delete(IDENTITIES).where(own)).rowcount == 0:
                return False
            audit(connection, record)
        return True

    def sweep(self, now: datetime) -> None:
        """Drop who never came back, SWEEP_ROWS_MAX at a time."""
        old = select(DEPARTURES.c.digest).where(DEPARTURES.c.expires_at <= now).limit(SWEEP_ROWS_MAX)
        with self._transaction() as connection:
            connection.execute(delete(DEPARTURES).where(DEPARTURES.c.digest.in_(old)))


def _of(state: str, provider: str, cookie: str, now: datetime) -> Any:
    return (
        (DEPARTURES.c.digest == digest(state))
        & (DEPARTURES.c.provider == provider)
        & (DEPARTURES.c.browser == digest(cookie))
        & (DEPARTURES.c.expires_at > now)
    )


def _departure(text: str | None) -> Departure | None:
    return None if text is None else Departure(**json.loads(text))
