"""Time-based one-time passwords (RFC 6238) as a second factor: sealed where they lie, each of them good once."""

import hmac
from datetime import datetime
from typing import Any, Final

import pyotp
from sqlalchemy import BigInteger, Column, LargeBinary, Select, Table, Text, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from mesh.errors import AlreadyExists
from security.keys.aead import NONCE_BYTES, Aead
from security.oauth.store import metadata
from security.oauth.transactions import Transactions

STEP_S: Final = 30
# Clocks and thumbs may be one step late or early.
STEPS_AROUND: Final = (0, -1, 1)
# Before its first use.
_UNUSED: Final = 0

SECOND_FACTORS = Table(
    "second_factors",
    metadata,
    Column("member_id", Text, primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
    # The step of the password that was used last: it and all before it are refused from then on.
    Column("used_step", BigInteger, nullable=False),
)


class SecondFactors:
    """Call it from a thread. `key` is shared by the replicas. Raises what Transactions does."""

    def __init__(self, transactions: Transactions, key: bytes, issuer: str) -> None:
        self._transaction = transactions.begin
        self._aead = Aead(key)
        self._issuer = issuer

    def enrol(self, member_id: str) -> str:
        """A new secret as an otpauth URI, for an app to scan, under the member's id. It counts from its first use on.

        AlreadyExists once the member has used one: to replace it is not for whoever can enrol.
        """
        secret = pyotp.random_base32()
        nonce, sealed = self._aead.seal(secret.encode(), member_id.encode())
        values = {"member_id": member_id, "sealed": nonce + sealed, "used_step": _UNUSED}
        kept = (
            upsert(SECOND_FACTORS)
            .values(values)
            .on_conflict_do_update(
                index_elements=["member_id"], set_=values, where=SECOND_FACTORS.c.used_step == _UNUSED
            )
        )
        with self._transaction() as connection:
            if connection.execute(kept.returning(SECOND_FACTORS.c.member_id)).one_or_none() is None:
                raise AlreadyExists("FACTOR_EXISTS", "this member has a second factor already")
        return pyotp.TOTP(secret, interval=STEP_S).provisioning_uri(name=member_id, issuer_name=self._issuer)

    def required(self, member_id: str) -> bool:
        """Whether the member has a second factor in use."""
        with self._transaction() as connection:
            step = connection.execute(_of(member_id, SECOND_FACTORS.c.used_step)).scalar_one_or_none()
        return step is not None and step > _UNUSED

    def use(self, member_id: str, password: str, now: datetime) -> bool:
        """Whether this is the member's password of now. It is used up by that, on whichever replica."""
        with self._transaction() as connection:
            sealed = connection.execute(_of(member_id, SECOND_FACTORS.c.sealed)).scalar_one_or_none()
            if sealed is None:
                return False
            found = bytes(sealed)
            secret = self._aead.open(found[:NONCE_BYTES], found[NONCE_BYTES:], member_id.encode()).decode()
            step = matching_step(secret, password, now)
            if step is None:
                return False
            used = update(SECOND_FACTORS).where(
                SECOND_FACTORS.c.member_id == member_id, SECOND_FACTORS.c.used_step < step
            )
            taken = used.values(used_step=step).returning(SECOND_FACTORS.c.member_id)
            return connection.execute(taken).one_or_none() is not None


def matching_step(secret: str, password: str, now: datetime) -> int | None:
    """The step whose password this is, of those around now."""
    totp = pyotp.TOTP(secret, interval=STEP_S)
    step = int(now.timestamp()) // STEP_S
    matching = [
        step + offset
        for offset in STEPS_AROUND
        if hmac.compare_digest(totp.generate_otp(step + offset).encode(), password.encode())
    ]
    return matching[0] if matching else None


def _of(member_id: str, column: Column[Any]) -> Select[tuple[Any]]:
    return select(column).where(SECOND_FACTORS.c.member_id == member_id)
