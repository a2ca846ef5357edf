"""Passkeys (WebAuthn Level 3): keys that never leave their authenticator, for this site alone, opened by their owner.

A passkey is asked for with user verification, so that it is two factors in one: the device, and what opens it.
"""

import base64
import hashlib
import hmac
import ipaddress
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import webauthn
from sqlalchemy import BigInteger, Column, DateTime, LargeBinary, Table, Text, delete, func, insert, or_, select, update
from webauthn.helpers.exceptions import WebAuthnException
from webauthn.helpers.structs import (
    AuthenticatorSelectionCriteria,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from security.audit.record import AuditRecord
from security.audit.transactional import insert as audit
from security.oauth.store import metadata
from security.oauth.transactions import Transactions

PASSKEYS_MAX: Final = 10
CREDENTIAL_CHARACTERS_MAX: Final = 16_384
# How long a page with a challenge may lie open.
CHALLENGE_LIFE_S: Final = 900
_NAME: Final = "Isthmus"
_HEAD: Final = 24
_VERIFIED: Final = UserVerificationRequirement.REQUIRED

PASSKEYS = Table(
    "passkeys",
    metadata,
    Column("credential_id", LargeBinary, primary_key=True),
    Column("member_id", Text, nullable=False),
    Column("public_key", LargeBinary, nullable=False),
    # An authenticator that counts and does not count on was copied.
    Column("sign_count", BigInteger, nullable=False),
    Column("agent", Text, nullable=False),
    Column("made_at", DateTime(timezone=True), nullable=False),
)

UseOnce = Callable[[str, datetime], bool]


class PasskeyError(Exception):
    """What the browser sent is no good passkey. Says which rule, for the log."""


@dataclass(frozen=True)
class Passkey:
    """As it is listed. passkey_id: the credential's id in base64url."""

    passkey_id: str
    agent: str
    made_at: datetime


class Passkeys:
    """Call it from a thread. `key` is shared by the replicas, so that either takes what was begun at the other.

    A challenge holds its own time and mark: nothing is kept until it is used, and it is used once.
    """

    def __init__(self, transactions: Transactions, key: bytes, issuer: str, use_once: UseOnce) -> None:
        self._transaction = transactions.begin
        self._key = key
        self._origin = issuer
        self._site = urlsplit(issuer).hostname or ""
        self._use_once = use_once

    @property
    def offered(self) -> bool:
        """Browsers know sites by name: one that is called by an address has no passkeys."""
        try:
            ipaddress.ip_address(self._site)
        except ValueError:
            return True
        return False

    def asking(self, cookie: str, now: datetime) -> str:
        """What the browser is to sign with any passkey for this site, as JSON."""
        options = webauthn.generate_authentication_options(
            rp_id=self._site, challenge=self._challenge("get", cookie, now), user_verification=_VERIFIED
        )
        return webauthn.options_to_json(options)

    def making(self, member_id: str, login: str, cookie: str, now: datetime) -> str:
        """What the browser is to make a passkey from, as JSON; not on an authenticator that has one already."""
        with self._transaction() as connection:
            own = select(PASSKEYS.c.credential_id).where(PASSKEYS.c.member_id == member_id)
            known = [bytes(each) for each in connection.execute(own).scalars()]
        options = webauthn.generate_registration_options(
            rp_id=self._site,
            rp_name=_NAME,
            user_id=member_id.encode(),
            user_name=login,
            challenge=self._challenge("create", cookie, now),
            exclude_credentials=[PublicKeyCredentialDescriptor(id=each) for each in known],
            authenticator_selection=AuthenticatorSelectionCriteria(
                resident_key=ResidentKeyRequirement.REQUIRED, user_verification=_VERIFIED
            ),
        )
        return webauthn.options_to_json(options)

    def add(self, member_id: str, credential: str, cookie: str, agent: str, now: datetime, record: AuditRecord) -> None:
        """Keep a passkey that was just made. PasskeyError for anything else, or for one too many."""
        shown = _parsed(credential)
        challenge = self._used(shown, "create", cookie, now)
        try:
            made = webauthn.verify_registration_response(
                credential=shown,
                expected_challenge=challenge,
                expected_rp_id=self._site,
                expected_origin=self._origin,
                require_user_verification=True,
            )
        except (WebAuthnException, ValueError, KeyError, TypeError) as error:
            raise PasskeyError(f"the passkey was not made as asked: {type(error).__name__}") from error
        own = select(func.count()).select_from(PASSKEYS).where(PASSKEYS.c.member_id == member_id)
        values = {
            "credential_id": made.credential_id,
            "member_id": member_id,
            "public_key": made.credential_public_key,
            "sign_count": made.sign_count,
            "agent": agent,
            "made_at": now,
        }
        taken = select(PASSKEYS.c.member_id).where(PASSKEYS.c.credential_id == made.credential_id)
        with self._transaction() as connection:
            connection.execute(select(func.pg_advisory_xact_lock(func.hashtext(member_id))))
            if connection.execute(own).scalar_one() >= PASSKEYS_MAX:
                raise PasskeyError(f"a member has at most {PASSKEYS_MAX} passkeys")
            if connection.execute(taken).one_or_none() is not None:
                raise PasskeyError("the passkey is known already")
            connection.execute(insert(PASSKEYS).values(values))
            audit(connection, record)

    def use(self, credential: str, cookie: str, now: datetime) -> str:
        """The member whose passkey has signed what this browser was asked to. PasskeyError for anything else."""
        shown = _parsed(credential)
        challenge = self._used(shown, "get", cookie, now)
        try:
            known = webauthn.base64url_to_bytes(str(shown["id"]))
        except (ValueError, KeyError) as error:
            raise PasskeyError("the passkey has no id") from error
        with self._transaction() as connection:
            row = connection.execute(select(PASSKEYS).where(PASSKEYS.c.credential_id == known)).one_or_none()
            if row is None:
                raise PasskeyError("the passkey is not known")
            try:
                good = webauthn.verify_authentication_response(
                    credential=shown,
                    expected_challenge=challenge,
                    expected_rp_id=self._site,
                    expected_origin=self._origin,
                    credential_public_key=bytes(row.public_key),
                    credential_current_sign_count=row.sign_count,
                    require_user_verification=True,
                )
            except (WebAuthnException, ValueError, KeyError, TypeError) as error:
                raise PasskeyError(f"the passkey did not sign as asked: {type(error).__name__}") from error
            # Many authenticators count nothing; of one that counts, each number is good once on whichever replica.
            count = good.new_sign_count
            counted = update(PASSKEYS).where(
                PASSKEYS.c.credential_id == known, or_(PASSKEYS.c.sign_count < count, PASSKEYS.c.sign_count == 0)
            )
            if connection.execute(counted.values(sign_count=count)).rowcount == 0:
                raise PasskeyError("the passkey has counted this signature before")
            return str(row.member_id)

    def listed(self, member_id: str) -> list[Passkey]:
        """A member's passkeys, the first one first."""
        own = select(PASSKEYS).where(PASSKEYS.c.member_id == member_id).order_by(PASSKEYS.c.made_at)
        with self._transaction() as connection:
            rows = connection.execute(own).all()
        return [Passkey(webauthn.helpers.bytes_to_base64url(row.credential_id), row.agent, row.made_at) for row in rows]

    def remove(self, member_id: str, passkey_id: str, record: AuditRecord) -> bool:
        """Forget one passkey of a member; False if there is none of this id."""
        try:
            known = webauthn.base64url_to_bytes(passkey_id)
        except ValueError:
            return False
        own = (PASSKEYS.c.member_id == member_id) & (PASSKEYS.c.credential_id == known)
        with self._transaction() as connection:
            if connection.execute(delete(PASSKEYS).where(own)).rowcount == 0:
                return False
            audit(connection, record)
        return True

    def _challenge(self, purpose: str, cookie: str, now: datetime) -> bytes:
        head = int(now.timestamp()).to_bytes(8, "big") + os.urandom(_HEAD - 8)
        return head + self._mark(head, purpose, cookie)

    def _mark(self, head: bytes, purpose: str, cookie: str) -> bytes:
        return hmac.digest(self._key, head + f"{purpose}\0{cookie}".encode(), hashlib.sha256)

    def _used(self, shown: dict[str, Any], purpose: str, cookie: str, now: datetime) -> bytes:
        """The challenge that was signed, if it was given to this browser for this purpose a while ago, once."""
        try:
            said = json.loads(_decoded(shown["response"]["clientDataJSON"]))
            challenge = _decoded(said["challenge"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise PasskeyError("there is no challenge in it") from error
        head, mark = challenge[:_HEAD], challenge[_HEAD:]
        if not hmac.compare_digest(mark, self._mark(head, purpose, cookie)):
            raise PasskeyError("the challenge was not given to this browser")
        made = datetime.fromtimestamp(int.from_bytes(head[:8], "big"), UTC)
        ends = made + timedelta(seconds=CHALLENGE_LIFE_S)
        if ends <= now:
            raise PasskeyError("the challenge is too old")
        if not self._use_once(f"passkey\0{challenge.hex()}", ends):
            raise PasskeyError("the challenge was used before")
        return challenge


def _parsed(credential: str) -> dict[str, Any]:
    try:
        shown = json.loads(credential) if len(credential) <= CREDENTIAL_CHARACTERS_MAX else None
    except (ValueError, RecursionError) as error:
        raise PasskeyError("it is no JSON") from error
    if not isinstance(shown, dict):
        raise PasskeyError("it is no credential")
    return shown


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
