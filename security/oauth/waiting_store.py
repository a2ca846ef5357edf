"""Requests that wait for a person, in PostgreSQL: pushed ones (RFC 9126), and those of devices (RFC 8628)."""

import json
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Boolean, Column, DateTime, LargeBinary, Row, Table, Text, delete, insert, or_, select, update

from security.audit.record import AuditRecord
from security.audit.transactional import insert as audit
from security.oauth.domain import BY_PASSWORD, DEVICE_POLL_S, Session
from security.oauth.store import SWEEP_ROWS_MAX, digest, metadata
from security.oauth.transactions import Transactions

PUSHED = Table(
    "pushed_requests",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("client_id", Text, nullable=False),
    Column("parameters", Text, nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
)
DEVICES = Table(
    "device_codes",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("user_code", Text, nullable=False, unique=True),
    Column("client_id", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("family_id", Text, nullable=False),
    Column("asked_at", DateTime(timezone=True)),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("allowed", Boolean),
    Column("member_id", Text),
    Column("signed_in_at", DateTime(timezone=True)),
    Column("context", Text, nullable=False),
    Column("methods", Text, nullable=False),
)


@dataclass(frozen=True)
class Device:
    """A program on a device without a browser, and what the person at another one made of it."""

    user_code: str
    client_id: str
    scope: str
    family_id: str
    expires_at: datetime
    # None: nobody has decided yet.
    allowed: bool | None = None
    member_id: str | None = None
    signed_in_at: datetime | None = None
    context: str = ""
    methods: str = BY_PASSWORD


class WaitingStore:
    """Call it from a thread. Every method is one transaction and raises what Transactions does."""

    def __init__(self, transactions: Transactions) -> None:
        self._transaction = transactions.begin

    def push(self, name: str, client_id: str, parameters: dict[str, str], expires_at: datetime) -> None:
        """Keep an authorization request under a name that only its client knows."""
        text = json.dumps(parameters)
        values = {"digest": digest(name), "client_id": client_id, "parameters": text, "expires_at": expires_at}
        with self._transaction() as connection:
            connection.execute(insert(PUSHED).values(values))

    def take_pushed(self, name: str, client_id: str, now: datetime) -> dict[str, str] | None:
        """The request, once."""
        mine = (PUSHED.c.digest == digest(name)) & (PUSHED.c.client_id == client_id) & (PUSHED.c.expires_at > now)
        with self._transaction() as connection:
            text = connection.execute(delete(PUSHED).where(mine).returning(PUSHED.c.parameters)).scalar_one_or_none()
        found: dict[str, str] | None = None if text is None else json.loads(text)
        return found

    def add_device(self, code: str, device: Device) -> None:
        with self._transaction() as connection:
            connection.execute(insert(DEVICES).values(digest=digest(code), **asdict(device)))

    def device(self, code: str) -> Device | None:
        """The device that holds this code."""
        with self._transaction() as connection:
            row = connection.execute(select(DEVICES).where(DEVICES.c.digest == digest(code))).one_or_none()
        return None if row is None else _device(row)

    def undecided(self, user_code: str, now: datetime) -> Device | None:
        """The device that shows this code and waits for a decision."""
        with self._transaction() as connection:
            row = connection.execute(select(DEVICES).where(_undecided(user_code, now))).one_or_none()
        return None if row is None else _device(row)

    def decide(self, user_code: str, session: Session | None, now: datetime, record: AuditRecord) -> bool:
        """Keep what a person decided: whose session allowed it, or None who denied it. False if somebody was first."""
        values: dict[str, Any] = {"allowed": session is not None}
        if session is not None:
            values |= {name: getattr(session, name) for name in ("member_id", "signed_in_at", "context", "methods")}
        decided = update(DEVICES).where(_undecided(user_code, now)).values(values)
        with self._transaction() as connection:
            if connection.execute(decided.returning(DEVICES.c.user_code)).one_or_none() is None:
                return False
            audit(connection, record)
        return True

    def take_decided(self, user_code: str) -> Device | None:
        """The decision, once; None while there is none."""
        decided = (DEVICES.c.user_code == user_code) & DEVICES.c.allowed.is_not(None)
        with self._transaction() as connection:
            row = connection.execute(delete(DEVICES).where(decided).returning(DEVICES)).one_or_none()
        return None if row is None else _device(row)

    def asks_too_often(self, user_code: str, now: datetime) -> bool:
        """Note that the device asked; True if it did so within the interval that it was told."""
        due = or_(DEVICES.c.asked_at.is_(None), DEVICES.c.asked_at <= now - timedelta(seconds=DEVICE_POLL_S))
        asked = update(DEVICES).where(DEVICES.c.user_code == user_code, due).values(asked_at=now)
        with self._transaction() as connection:
            return connection.execute(asked.returning(DEVICES.c.user_code)).one_or_none() is None

    def sweep(self, now: datetime) -> None:
        """Drop what nobody came for, SWEEP_ROWS_MAX of each at a time."""
        with self._transaction() as connection:
            for table in (PUSHED, DEVICES):
                old = select(table.c.digest).where(table.c.expires_at <= now).limit(SWEEP_ROWS_MAX)
                connection.execute(delete(table).where(table.c.digest.in_(old)))


def _undecided(user_code: str, now: datetime) -> Any:
    return (DEVICES.c.user_code == user_code) & DEVICES.c.allowed.is_(None) & (DEVICES.c.expires_at > now)


def _device(row: Row[Any]) -> Device:
    return Device(
        row.user_code,
        row.client_id,
        row.scope,
        row.family_id,
        row.expires_at,
        row.allowed,
        row.member_id,
        row.signed_in_at,
        row.context,
        row.methods,
    )
