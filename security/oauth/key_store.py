"""The public keys of gateways in PostgreSQL."""

from datetime import datetime

from sqlalchemy import Column, DateTime, Table, Text, delete, select
from sqlalchemy.dialects.postgresql import insert as upsert

from security.oauth.store import metadata
from security.oauth.transactions import Transactions
from security.tokens.keys import KEYS_MAX

GATEWAY_KEYS = Table(
    "gateway_keys",
    metadata,
    Column("kid", Text, primary_key=True),
    Column("jwk", Text, nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
)


class GatewayKeyStore:
    """Call it from a thread. Every method is one transaction and raises what Transactions does."""

    def __init__(self, transactions: Transactions) -> None:
        self._transaction = transactions.begin

    def put(self, kid: str, jwk: str, expires_at: datetime) -> None:
        """Keep a key until then."""
        values = {"kid": kid, "jwk": jwk, "expires_at": expires_at}
        with self._transaction() as connection:
            connection.execute(
                upsert(GATEWAY_KEYS).values(values).on_conflict_do_update(index_elements=["kid"], set_=values)
            )

    def listed(self, now: datetime) -> list[str]:
        """The keys that have not expired, the newest KEYS_MAX of them."""
        live = select(GATEWAY_KEYS.c.jwk).where(GATEWAY_KEYS.c.expires_at > now)
        with self._transaction() as connection:
            newest = live.order_by(GATEWAY_KEYS.c.expires_at.desc()).limit(KEYS_MAX)
            return list(connection.execute(newest).scalars())

    def sweep(self, now: datetime) -> None:
        """Drop what has expired."""
        with self._transaction() as connection:
            connection.execute(delete(GATEWAY_KEYS).where(GATEWAY_KEYS.c.expires_at <= now))
