"""Members' sessions in browsers, and what they have allowed which client, in PostgreSQL."""

from dataclasses import replace
from datetime import datetime

from sqlalchemy import ARRAY, Column, DateTime, LargeBinary, Table, Text, delete, func, insert, select
from sqlalchemy.dialects.postgresql import insert as upsert

from security.audit.record import AuditRecord
from security.audit.transactional import insert as audit
from security.oauth.domain import SESSIONS_MAX, Consent, Session
from security.oauth.logins import seal, unseal
from security.oauth.store import ACCOUNTS, CLIENTS, SWEEP_ROWS_MAX, digest, metadata
from security.oauth.transactions import Transactions

SESSIONS = Table(
    "sessions",
    metadata,
    # SHA-256 of what the cookie holds: who reads the table cannot go on in anybody's session.
    Column("digest", LargeBinary, primary_key=True),
    Column("member_id", Text, nullable=False),
    Column("signed_in_at", DateTime(timezone=True), nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("context", Text, nullable=False),
    Column("methods", Text, nullable=False),
    Column("agent", Text, nullable=False),
    # NULL where none was typed.
    Column("login_sealed", LargeBinary),
)
CONSENTS = Table(
    "consents",
    metadata,
    Column("member_id", Text, primary_key=True),
    Column("client_id", Text, primary_key=True),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("given_at", DateTime(timezone=True), nullable=False),
)


def session_id(token: str) -> str:
    """What a session is called where people see it: it says nothing of its cookie."""
    return _name(digest(token))


class SessionStore:
    """Call it from a thread. Every method is one transaction and raises what Transactions does."""

    def __init__(self, transactions: Transactions) -> None:
        self._transaction = transactions.begin

    def begin(self, token: str, session: Session, replaced: str, record: AuditRecord) -> None:
        """A session, in place of the one that this browser had. Of a member's the newest SESSIONS_MAX stay."""
        values = {name: getattr(session, name) for name in _KEPT}
        values["login_sealed"] = seal(token, session.login) if session.login else None
        own = SESSIONS.c.member_id == session.member_id
        newest = select(SESSIONS.c.digest).where(own).order_by(SESSIONS.c.expires_at.desc()).limit(SESSIONS_MAX)
        with self._transaction() as connection:
            connection.execute(delete(SESSIONS).where(SESSIONS.c.digest == digest(replaced)))
            connection.execute(insert(SESSIONS).values(digest=digest(token), **values))
            connection.execute(delete(SESSIONS).where(own, SESSIONS.c.digest.not_in(newest)))
            audit(connection, record)

    def find(self, token: str, now: datetime) -> Session | None:
        """The session that a cookie stands for."""
        found = self._select(SESSIONS.c.digest == digest(token), now)
        if not found:
            return None
        ((session, sealed),) = found
        return replace(session, login=unseal(token, bytes(sealed))) if sealed else session

    def listed(self, member_id: str, now: datetime) -> list[Session]:
        """A member's sessions, newest first."""
        return [session for session, _ in self._select(SESSIONS.c.member_id == member_id, now)]

    def end(self, member_id: str, name: str, record: AuditRecord) -> bool:
        """End one session of a member; False if there is none of this name."""
        own = (SESSIONS.c.member_id == member_id) & (func.left(func.encode(SESSIONS.c.digest, "hex"), 16) == name)
        with self._transaction() as connection:
            if connection.execute(delete(SESSIONS).where(own)).rowcount == 0:
                return False
            audit(connection, record)
        return True

    def allowed(self, member_id: str, client_id: str) -> frozenset[str]:
        """The scopes that a member has allowed a client before."""
        own = (CONSENTS.c.member_id == member_id) & (CONSENTS.c.client_id == client_id)
        with self._transaction() as connection:
            return frozenset(connection.execute(select(CONSENTS.c.scopes).where(own)).scalar_one_or_none() or ())

    def allow(self, member_id: str, client_id: str, scopes: frozenset[str], now: datetime) -> None:
        """Remember a consent, besides what was allowed before."""
        own = (CONSENTS.c.member_id == member_id) & (CONSENTS.c.client_id == client_id)
        with self._transaction() as connection:
            before = connection.execute(select(CONSENTS.c.scopes).where(own).with_for_update()).scalar_one_or_none()
            values = {"scopes": sorted(scopes | frozenset(before or ())), "given_at": now}
            added = upsert(CONSENTS).values(member_id=member_id, client_id=client_id, **values)
            connection.execute(added.on_conflict_do_update(index_elements=["member_id", "client_id"], set_=values))

    def consents(self, member_id: str) -> list[Consent]:
        """What a member has allowed, by the clients' names."""
        wanted = (
            select(CONSENTS.c.client_id, CLIENTS.c.name, CONSENTS.c.scopes, CONSENTS.c.given_at)
            .join(CLIENTS, CLIENTS.c.client_id == CONSENTS.c.client_id)
            .where(CONSENTS.c.member_id == member_id)
            .order_by(CLIENTS.c.name)
        )
        with self._transaction() as connection:
            rows = connection.execute(wanted).all()
        return [Consent(row.client_id, row.name, frozenset(row.scopes), row.given_at) for row in rows]

    def sweep(self, now: datetime) -> None:
        """Drop sessions that have ended by themselves, SWEEP_ROWS_MAX at a time."""
        old = select(SESSIONS.c.digest).where(SESSIONS.c.expires_at <= now).limit(SWEEP_ROWS_MAX)
        with self._transaction() as connection:
            connection.execute(delete(SESSIONS).where(SESSIONS.c.digest.in_(old)))

    def _select(self, which: object, now: datetime) -> list[tuple[Session, bytes | None]]:
        wanted = (
            select(SESSIONS)
            .join(ACCOUNTS, ACCOUNTS.c.member_id == SESSIONS.c.member_id)
            .where(which, SESSIONS.c.expires_at > now)  # type: ignore[arg-type]
            .order_by(SESSIONS.c.signed_in_at.desc())
        )
        with self._transaction() as connection:
            rows = connection.execute(wanted).all()
        return [
            (
                Session(login="", session_id=_name(row.digest), **{name: getattr(row, name) for name in _KEPT}),
                row.login_sealed,
            )
            for row in rows
        ]


_KEPT = ("member_id", "signed_in_at", "expires_at", "context", "methods", "agent")


def _name(found: bytes) -> str:
    return bytes(found).hex()[:16]
