"""The keys that sign access tokens: shared by the replicas through PostgreSQL, wrapped there, rotated ahead of time."""

import asyncio
import json
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc.jwk import ECKey, KeySet

from mesh.clock import Clock
from mesh.errors import Aborted, Unavailable
from mesh.logs import logger
from security.keys.port import Kms
from security.oauth.domain import KeyDates, KeyRules, signing_key, successor
from security.oauth.store import Store, StoredKey
from security.tokens.jwk import COORDINATE_BYTES, public_jwk
from security.tokens.keys import parse_jwk

log = logger("oauth")

# So soon each replica knows of a key that the other was told to make.
REFRESH_S = 2.0
REPLACE_ATTEMPTS_MAX = 5
STORE_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class SigningKey:
    """An unwrapped key, ready to sign."""

    dates: KeyDates
    private_pem: bytes


def _context(kid: str) -> bytes:
    """What a wrapped key is bound to: it cannot be taken for another key's."""
    return f"oauth/signing-key/{kid}".encode()


class SigningKeys:
    """The current keys in memory, read again every other second. A KeySource for this process, too."""

    def __init__(self, store: Store, kms: Kms, rules: KeyRules, clock: Clock) -> None:
        self._store = store
        self._kms = kms
        self._rules = rules
        self._clock = clock
        self._keys: dict[str, SigningKey] = {}
        self._jwks: dict[str, str] = {}
        self._public: dict[str, ec.EllipticCurvePublicKey] = {}
        # The key that signs, by its id: to read it for every token took as long as to sign.
        self._read_key: tuple[str, KeySet] = ("", KeySet([]))
        self._task: asyncio.Task[None] | None = None

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now_us() / 1e6, UTC)

    async def refresh(self) -> None:
        """Read the keys, make the next one if it is time, and unwrap what is new."""
        stored = await self._read()
        starts = self._rules.next_start([key.dates for key in stored], self._now())
        if starts is not None:
            added = await self._make(*self._rules.dates(starts))
            known = frozenset(key.dates.kid for key in stored)
            if await asyncio.to_thread(self._store.add_signing_key, added, known):
                log.info("signing_key_made", kid=added.dates.kid, signs_from=starts.isoformat())
            stored = await self._read()
        now = self._now()
        alive = [key for key in stored if now < key.dates.retire_at]
        keys: dict[str, SigningKey] = {}
        for key in alive:
            kid = key.dates.kid
            keys[kid] = self._keys.get(kid) or SigningKey(key.dates, await self._unwrap(key))
        self._jwks = {key.dates.kid: key.jwk for key in alive}
        self._public = dict(parse_jwk(text) for text in self._jwks.values())
        self._keys = keys

    async def replace(self) -> KeyDates:
        """Put a new key in the place of all others, which end as soon as every verifier can know it. While such a
        replacement is under way, it is that one.

        Aborted if others changed the keys again and again meanwhile.
        """
        for _ in range(REPLACE_ATTEMPTS_MAX):
            stored, now = await self._read(), self._now()
            alive = [key.dates for key in stored if now < key.dates.retire_at]
            if (under_way := successor(alive, now)) is not None:
                return under_way
            added = await self._make(*self._rules.dates(now + self._rules.hurried_ahead))
            known = frozenset(key.dates.kid for key in stored)
            if await asyncio.to_thread(self._store.add_signing_key, added, known, alone=True):
                log.warning("signing_keys_replaced", kid=added.dates.kid, signs_from=added.dates.not_before.isoformat())
                await self.refresh()
                return added.dates
        raise Aborted("KEYS_CHANGED", "the signing keys were changed by others meanwhile", remedy="Ask again.")

    async def _read(self) -> list[StoredKey]:
        return await asyncio.wait_for(asyncio.to_thread(self._store.signing_keys), STORE_TIMEOUT_S)

    async def _make(self, not_before: datetime, retire_at: datetime) -> StoredKey:
        private = ec.generate_private_key(ec.SECP256R1())
        jwk = public_jwk(private.public_key())
        scalar = private.private_numbers().private_value.to_bytes(COORDINATE_BYTES, "big")
        kek, wrapped = await self._kms.wrap(scalar, _context(jwk["kid"]))
        dates = KeyDates(jwk["kid"], not_before, retire_at)
        return StoredKey(dates, json.dumps(jwk, separators=(",", ":")), wrapped, kek)

    async def _unwrap(self, key: StoredKey) -> bytes:
        scalar = await self._kms.unwrap(key.kek, key.wrapped, _context(key.dates.kid))
        private = ec.derive_private_key(int.from_bytes(scalar, "big"), ec.SECP256R1())
        return private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def current(self) -> SigningKey:
        """The key to sign with now. Unavailable if there is none."""
        dates = signing_key([key.dates for key in self._keys.values()], self._now())
        if dates is None:
            raise Unavailable("NO_SIGNING_KEY", "there is no key to sign tokens with")
        return self._keys[dates.kid]

    def signing(self) -> KeySet:
        """The same for joserfc: in a set, so that the key's id gets into the header."""
        key = self.current()
        kid, read = self._read_key
        if kid != key.dates.kid:
            read = KeySet([ECKey.import_key(key.private_pem, {"kid": key.dates.kid, "alg": "ES256", "use": "sig"})])
            self._read_key = key.dates.kid, read
        return read

    def published(self) -> list[str]:
        """The public JWKs of every key in use and of the next, one JSON text each."""
        return list(self._jwks.values())

    def held(self, kid: str) -> ec.EllipticCurvePublicKey | None:
        """See security.tokens.keys.KeySource."""
        return self._public.get(kid)

    async def key(self, kid: str) -> ec.EllipticCurvePublicKey | None:
        """See security.tokens.keys.KeySource."""
        return self.held(kid)

    async def start(self) -> None:
        """Load the keys, or fail: an authorization server without keys is of no use."""
        await self.refresh()
        self._task = asyncio.create_task(self._run(), name="signing-keys")

    async def stop(self, grace_s: float) -> None:
        """Stop refreshing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=grace_s)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            try:
                await self.refresh()
            except Exception as error:  # the keys in memory go on signing while the database is away
                log.error("signing_keys_not_refreshed", detail=type(error).__name__)
