"""What the authorization server keeps in PostgreSQL, schema `oauth`. Both replicas share it."""

import hashlib
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ARRAY,
    Boolean,
    Column,
    DateTime,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    Table,
    Text,
    delete,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert

from security.audit.record import AuditRecord
from security.audit.transactional import insert as audit
from security.keys.port import KekRef
from security.oauth.domain import Account, Authentication, Client, Code, KeyDates, lock_after
from security.oauth.logins import Logins
from security.oauth.transactions import Transactions

metadata = MetaData(schema="oauth")

CLIENTS = Table(
    "clients",
    metadata,
    Column("client_id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("secret_hash", Text),
    Column("grants", ARRAY(Text), nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("redirect_uris", ARRAY(Text), nullable=False),
    Column("authentication", Text, nullable=False),
    Column("jwks", Text),
    Column("spiffe_id", Text),
    Column("bound", Boolean, nullable=False),
)
ACCOUNTS = Table(
    "accounts",
    metadata,
    Column("member_id", Text, primary_key=True),
    # Of an account from before logins were hashed, until this server has done it.
    Column("login", Text),
    Column("login_index", LargeBinary, unique=True),
    Column("password_hash", Text, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("locked_until", DateTime(timezone=True)),
)
CODES = Table(
    "codes",
    metadata,
    # SHA-256 of the code: who reads the table cannot redeem what is in it.
    Column("digest", LargeBinary, primary_key=True),
    Column("client_id", Text, nullable=False),
    Column("member_id", Text, nullable=False),
    Column("redirect_uri", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("challenge", Text, nullable=False),
    Column("signed_in_at", DateTime(timezone=True), nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("family_id", Text, nullable=False),
    Column("context", Text, nullable=False),
    Column("methods", Text, nullable=False),
    Column("nonce", Text, nullable=False),
    # Kept until it expires, so that a second taker is noticed.
    Column("taken", Boolean, nullable=False),
)
SIGNING_KEYS = Table(
    "signing_keys",
    metadata,
    Column("kid", Text, primary_key=True),
    Column("jwk", Text, nullable=False),
    # The private number, wrapped by the key-encryption key that the next two columns name.
    Column("wrapped", LargeBinary, nullable=False),
    Column("kek_id", Text, nullable=False),
    Column("kek_version", Integer, nullable=False),
    Column("not_before", DateTime(timezone=True), nullable=False),
    Column("retire_at", DateTime(timezone=True), nullable=False),
)

# Any number: the replicas take this transaction-wide lock before they make a signing key.
_KEYS_LOCK = 0x6F61757468
SWEEP_ROWS_MAX = 1000


@dataclass(frozen=True)
class StoredKey:
    """A signing key as it lies in the table: its public JWK and its wrapped private number."""

    dates: KeyDates
    jwk: str
    wrapped: bytes
    kek: KekRef


def digest(code: str) -> bytes:
    """What a code or a token is found by."""
    return hashlib.sha256(code.encode()).digest()


class Store:
    """Call it from a thread. Every method is one transaction and raises what Transactions does."""

    def __init__(self, transactions: Transactions, logins: Logins) -> None:
        self._transaction = transactions.begin
        self._logins = logins

    def client(self, client_id: str) -> Client | None:
        with self._transaction() as connection:
            row = connection.execute(select(CLIENTS).where(CLIENTS.c.client_id == client_id)).one_or_none()
        if row is None:
            return None
        return Client(
            row.client_id,
            row.name,
            row.secret_hash,
            frozenset(row.grants),
            frozenset(row.scopes),
            tuple(row.redirect_uris),
            Authentication(row.authentication),
            row.jwks,
            row.spiffe_id,
            row.bound,
        )

    def put_client(self, client: Client) -> None:
        """Register a client, or bring its registration up to date."""
        values = {
            "client_id": client.client_id,
            "name": client.name,
            "secret_hash": client.secret_hash,
            "grants": sorted(client.grants),
            "scopes": sorted(client.scopes),
            "redirect_uris": list(client.redirect_uris),
            "authentication": client.authentication.value,
            "jwks": client.jwks,
            "spiffe_id": client.spiffe_id,
            "bound": client.bound,
        }
        with self._transaction() as connection:
            connection.execute(
                upsert(CLIENTS).values(values).on_conflict_do_update(index_elements=["client_id"], set_=values)
            )

    def remove_client(self, client_id: str) -> None:
        """Forget a client that nothing was ever given to in a member's name."""
        with self._transaction() as connection:
            connection.execute(delete(CLIENTS).where(CLIENTS.c.client_id == client_id))

    def add_account(self, member_id: str, login: str, password_hash: str) -> Account | None:
        """Add an account; None if it was added, else the account that already has this member or this login."""
        index = self._logins.index(login)
        values = {"login_index": index, "password_hash": password_hash, "failures": 0}
        added = upsert(ACCOUNTS).values(member_id=member_id, **values)
        with self._transaction() as connection:
            if connection.execute(added.on_conflict_do_nothing()).rowcount == 1:
                return None
            taken = (ACCOUNTS.c.member_id == member_id) | (ACCOUNTS.c.login_index == index)
            # Two rows are possible: this member has another login, and the login belongs to another member.
            return _account(connection.execute(select(ACCOUNTS).where(taken).limit(1)).one())

    def account(self, login: str) -> Account | None:
        with self._transaction() as connection:
            found = select(ACCOUNTS).where(ACCOUNTS.c.login_index == self._logins.index(login))
            row = connection.execute(found).one_or_none()
        return None if row is None else _account(row)

    def account_of(self, member_id: str) -> Account | None:
        with self._transaction() as connection:
            row = connection.execute(select(ACCOUNTS).where(ACCOUNTS.c.member_id == member_id)).one_or_none()
        return None if row is None else _account(row)

    def is_login(self, account: Account, login: str) -> bool:
        """Whether an account is found by this folded login."""
        return account.login_index == self._logins.index(login)

    def hash_logins(self) -> int:
        """Hash what lies in clear from before; of two replicas each does a part. Gives how many."""
        with self._transaction() as connection:
            clear = select(ACCOUNTS.c.member_id, ACCOUNTS.c.login).where(ACCOUNTS.c.login.is_not(None))
            rows = connection.execute(clear.limit(SWEEP_ROWS_MAX).with_for_update(skip_locked=True)).all()
            for row in rows:
                values = {"login": None, "login_index": self._logins.index(row.login)}
                connection.execute(update(ACCOUNTS).where(ACCOUNTS.c.member_id == row.member_id).values(values))
        return len(rows)

    def count_failure(self, member_id: str, now: datetime) -> None:
        """Count a wrong password, and close the account for a while after too many."""
        with self._transaction() as connection:
            counted = (
                update(ACCOUNTS)
                .where(ACCOUNTS.c.member_id == member_id)
                .values(failures=func.least(ACCOUNTS.c.failures + 1, 1_000_000))
                .returning(ACCOUNTS.c.failures)
            )
            failures = connection.execute(counted).scalar_one_or_none()
            if failures is not None and lock_after(failures) > timedelta(0):
                locked = update(ACCOUNTS).where(ACCOUNTS.c.member_id == member_id)
                connection.execute(locked.values(locked_until=now + lock_after(failures)))

    def clear_failures(self, member_id: str) -> None:
        with self._transaction() as connection:
            connection.execute(
                update(ACCOUNTS)
                .where(ACCOUNTS.c.member_id == member_id, ACCOUNTS.c.failures > 0)
                .values(failures=0, locked_until=None)
            )

    def add_code(self, code: str, granted: Code, record: AuditRecord) -> None:
        """Keep a code, and on record for whom it was given."""
        with self._transaction() as connection:
            connection.execute(insert(CODES).values(digest=digest(code), taken=False, **asdict(granted)))
            audit(connection, record)

    def take_code(self, code: str, client_id: str, now: datetime) -> tuple[Code | None, bool]:
        """The code, if this client may redeem it, and whether it was redeemed before.

        Of two takers, on whichever replica, one gets it; the other learns that it is a replay.
        """
        mine = (CODES.c.digest == digest(code)) & (CODES.c.client_id == client_id) & (CODES.c.expires_at > now)
        with self._transaction() as connection:
            taking = update(CODES).where(mine, ~CODES.c.taken).values(taken=True).returning(CODES)
            taken = connection.execute(taking).one_or_none()
            found = taken or connection.execute(select(CODES).where(mine)).one_or_none()
        if found is None:
            return None, False
        names = (each.name for each in fields(Code))
        return Code(**{name: getattr(found, name) for name in names}), taken is None

    def sweep(self, now: datetime) -> int:
        """Drop codes nobody redeemed and keys nobody needs; at most SWEEP_ROWS_MAX codes at a time."""
        old = select(CODES.c.digest).where(CODES.c.expires_at <= now).limit(SWEEP_ROWS_MAX)
        with self._transaction() as connection:
            connection.execute(delete(SIGNING_KEYS).where(SIGNING_KEYS.c.retire_at <= now))
            return connection.execute(delete(CODES).where(CODES.c.digest.in_(old))).rowcount

    def signing_keys(self) -> list[StoredKey]:
        with self._transaction() as connection:
            rows = connection.execute(select(SIGNING_KEYS).order_by(SIGNING_KEYS.c.not_before)).all()
        return [
            StoredKey(
                KeyDates(row.kid, row.not_before, row.retire_at),
                row.jwk,
                bytes(row.wrapped),
                KekRef(row.kek_id, row.kek_version),
            )
            for row in rows
        ]

    def add_signing_key(self, key: StoredKey, known: frozenset[str], *, alone: bool = False) -> bool:
        """Add a key if the table still holds just the keys `known`; False if the other replica was first. `alone`: all
        others end when it begins."""
        with self._transaction() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _KEYS_LOCK})
            if frozenset(connection.execute(select(SIGNING_KEYS.c.kid)).scalars()) != known:
                return False
            if alone:
                ends = func.least(SIGNING_KEYS.c.retire_at, key.dates.not_before)
                connection.execute(update(SIGNING_KEYS).values(retire_at=ends))
            connection.execute(
                insert(SIGNING_KEYS).values(
                    kid=key.dates.kid,
                    jwk=key.jwk,
                    wrapped=key.wrapped,
                    kek_id=key.kek.id,
                    kek_version=key.kek.version,
                    not_before=key.dates.not_before,
                    retire_at=key.dates.retire_at,
                )
            )
        return True


def _account(row: Row[Any]) -> Account:
    return Account(row.member_id, bytes(row.login_index), row.password_hash, row.failures, row.locked_until)
