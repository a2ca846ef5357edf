"""The public keys that access tokens are checked with, fetched in the background and kept when the issuer is away."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from mesh.clock import Clock
from mesh.errors import MeshError, Unavailable
from mesh.logs import logger
from security.tokens.strict import decoded

log = logger("tokens")

# Each start of a gateway brings one that is listed for two hours, and none may crowd out another that is in use.
KEYS_MAX = 256
# A key that was taken away is trusted for no longer than this, and a fetch that fails.
REFRESH_S = 5.0
# A token with an unknown key id may come from anybody: it makes us ask the issuer for one id no more often than this,
# and in vain for no more ids than that.
UNKNOWN_KEY_REFRESH_S = 1.0
UNKNOWN_KEYS_MAX = 8
FETCH_TIMEOUT_S = 2.0

# Gives the issuer's JWKs, one JSON text each. Its argument: the id of a key that is sought, for which an old list is no
# answer; empty for none.
FetchJwks = Callable[[str], Awaitable[Sequence[str]]]


class KeySource(Protocol):
    """Where a verifier finds keys."""

    def held(self, kid: str) -> ec.EllipticCurvePublicKey | None:
        """The public key with this id, if it is among those that are here now."""
        ...

    async def key(self, kid: str) -> ec.EllipticCurvePublicKey | None:
        """The public key with this id, or None if the issuer has no such key.

        Unavailable if the issuer could not be asked, or was asked for too many others just now: whether it has the key
        is not known then.
        """
        ...


def parse_jwk(text: str) -> tuple[str, ec.EllipticCurvePublicKey]:
    """Key id and key of one public P-256 signing JWK (RFC 7517, RFC 7518 section 6.2.1); ValueError for any other."""
    jwk = json.loads(text)
    if not isinstance(jwk, dict) or "d" in jwk:
        raise ValueError("not a public key")
    if (jwk.get("kty"), jwk.get("crv"), jwk.get("use"), jwk.get("alg")) != ("EC", "P-256", "sig", "ES256"):
        raise ValueError("not a P-256 signing key")
    if jwk.get("key_ops", ["verify"]) != ["verify"]:
        raise ValueError("not a key to verify with")
    kid = jwk.get("kid")
    if not isinstance(kid, str) or not 0 < len(kid) <= 128:
        raise ValueError("no key id")
    return kid, public_key(jwk)


def public_key(jwk: Mapping[str, object]) -> ec.EllipticCurvePublicKey:
    """The key of a P-256 JWK (RFC 7518, section 6.2.1). ValueError for coordinates that are none of a point of it."""
    x, y = (_coordinate(jwk.get(name)) for name in ("x", "y"))
    # Refuses a point that is not on the curve.
    return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()


def _coordinate(value: object) -> int:
    if not isinstance(value, str) or len(value) != 43:
        raise ValueError("not a coordinate")
    return int.from_bytes(decoded(value), "big")


class PublishedKeys:
    """The issuer's keys: refreshed every few seconds, at once for an unknown id, and kept while the issuer is away."""

    def __init__(self, fetch: FetchJwks, clock: Clock) -> None:
        self._fetch = fetch
        self._clock = clock
        self._keys: dict[str, ec.EllipticCurvePublicKey] = {}
        # The same by the text that it came as.
        self._parsed: dict[str, tuple[str, ec.EllipticCurvePublicKey]] = {}
        # When keys were last sought in vain, by id, the oldest first, and whether the issuer answered. A key that is
        # found costs no waiting to the next.
        self._missed: dict[str, tuple[float, bool]] = {}
        self._answered = False
        self._asking = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def held(self, kid: str) -> ec.EllipticCurvePublicKey | None:
        """See KeySource.held."""
        return self._keys.get(kid)

    async def key(self, kid: str) -> ec.EllipticCurvePublicKey | None:
        """See KeySource.key."""
        found = self._keys.get(kid)
        if found is not None:
            return found
        async with self._asking:
            # Whoever waited here shares the answer of whoever asked.
            if kid not in self._keys and not self._just_missed(kid):
                if len(self._missed) >= UNKNOWN_KEYS_MAX:
                    # Not asked for, so not known to be nobody's.
                    raise Unavailable("KEYS_BUSY", "too many unknown keys are being looked for: ask again")
                await self._refresh(kid)
                if kid not in self._keys:
                    self._missed[kid] = (self._clock.monotonic(), self._answered)
            found = self._keys.get(kid)
            # A list that was fetched since for another reason says nothing of a key that was sought.
            if found is None and not self._missed[kid][1]:
                raise Unavailable("KEYS_UNAVAILABLE", "the keys that tokens are checked with cannot be fetched")
            return found

    def _just_missed(self, kid: str) -> bool:
        since = self._clock.monotonic() - UNKNOWN_KEY_REFRESH_S
        self._missed = {each: sought for each, sought in self._missed.items() if sought[0] > since}
        return kid in self._missed

    async def start(self) -> None:
        """Fetch once and go on in the background. A failed first fetch is not fatal: the issuer may start later."""
        async with self._asking:
            await self._refresh()
        self._task = asyncio.create_task(self._run())

    async def stop(self, grace_s: float) -> None:
        """Stop refreshing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=grace_s)
            self._task = None

    async def _run(self) -> None:
        while True:
            # Jittered, so that a hundred processes do not ask in the same moment. Before the first success, sooner.
            pause_s = REFRESH_S if self._keys else UNKNOWN_KEY_REFRESH_S
            await asyncio.sleep(pause_s * random.uniform(0.9, 1.1))  # noqa: S311 (spreading load, not a secret)
            async with self._asking:
                await self._refresh()

    async def _refresh(self, sought: str = "") -> None:
        try:
            texts = await asyncio.wait_for(self._fetch(sought), FETCH_TIMEOUT_S)
            if not 0 < len(texts) <= KEYS_MAX:
                raise ValueError(f"{len(texts)} keys")
            # What was verified with a key is remembered by it: as long as it is the same, it stays the same object.
            parsed = {text: self._parsed.get(text) or parse_jwk(text) for text in texts}
            found = dict(parsed.values())
            if len(found) != len(texts):
                raise ValueError("a key id appears twice")
            self._parsed, self._keys = parsed, found
            self._answered = True
        except Exception as error:  # whatever the network or the answer does, the last good keys stay
            self._answered = False
            detail = error.message if isinstance(error, MeshError) else type(error).__name__
            log.warning("keys_not_refreshed", detail=detail, kept=len(self._keys))
