"""Making inner tokens (RFC 8693): signed with a key that never leaves this process, and used again while they last."""

import asyncio
import contextlib
import json
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.call import Claims
from mesh.clock import Clock
from mesh.errors import MeshError, Unavailable
from mesh.logs import logger
from security.tokens import inner
from security.tokens.jwk import public_jwk
from security.tokens.keys import UNKNOWN_KEY_REFRESH_S

log = logger("gateway")

# A token is handed out again while so much of its life is left: longer than any call and what it calls may take.
LEFT_S_MIN: Final = 20
TOKENS_MAX: Final = 20_000
KEY_LIFE_S: Final = 3600.0
# From when a key is published until it signs. Verifiers ask for a key that they do not know, but after too many
# others were sought in vain, no sooner than this.
LEARN_S: Final = UNKNOWN_KEY_REFRESH_S + 0.2
PUBLISH_RETRY_S: Final = 0.5
PUBLISH_ATTEMPTS_MAX: Final = 240

# Makes a public JWK known to all verifiers; raises MeshError.
Publish = Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class InnerToken:
    """A signed inner token. expires: seconds since the epoch."""

    text: str
    expires: int


@dataclass(frozen=True, slots=True)
class _Key:
    private: ec.EllipticCurvePrivateKey
    kid: str


class Mint:
    """Signs inner tokens. Bounded in memory; for the tasks of one loop."""

    def __init__(self, trust_domain: str, publish: Publish, clock: Clock) -> None:
        self._issuer = inner.issuer(trust_domain)
        self._publish = publish
        self._clock = clock
        self._key: _Key | None = None
        # Sent to be published, and not answered for yet.
        self._offered: ec.EllipticCurvePrivateKey | None = None
        self._made: OrderedDict[tuple[Any, ...], InnerToken] = OrderedDict()
        self._task: asyncio.Task[None] | None = None

    def token(
        self, claims: Claims, audience: str, scopes: frozenset[str], chain: tuple[str, ...], expires_max: int
    ) -> InnerToken:
        """A token for `audience`, with those of `scopes` that the subject has. expires_max: never lives longer."""
        now_s = self._clock.now_us() // 1_000_000
        narrowed = claims.scopes & scopes
        # Whatever of the claims enters the token stands here or follows from the origin.
        name = (claims.origin or claims.token_id, expires_max, audience, narrowed, chain)
        known = self._made.get(name)
        if known is not None and known.expires >= min(now_s + LEFT_S_MIN, expires_max):
            return known
        made = self._sign(claims, audience, narrowed, chain, now_s, min(now_s + inner.LIFE_S, expires_max))
        self._made[name] = made
        self._made.move_to_end(name)
        if len(self._made) > TOKENS_MAX:
            self._made.popitem(last=False)
        return made

    def _sign(
        self,
        claims: Claims,
        audience: str,
        scopes: frozenset[str],
        chain: tuple[str, ...],
        now_s: int,
        expires: int,
    ) -> InnerToken:
        key = self._key
        if key is None:
            raise Unavailable("NO_SIGNING_KEY", "there is no key to sign inner tokens with yet")
        payload: dict[str, Any] = {
            "iss": self._issuer,
            "aud": audience,
            "sub": claims.subject,
            "client_id": claims.client_id,
            "scope": " ".join(sorted(scopes)),
            "iat": now_s,
            "exp": expires,
            "jti": secrets.token_urlsafe(12),
            # What the subject's own token says of its age and of the sign-in, for whoever asks for more.
            "origin": claims.origin or claims.token_id,
            "origin_iat": claims.issued,
            "act": inner.act(chain),
        }
        optional = {
            "sid": claims.session_id,
            "auth_time": claims.authenticated,
            "acr": claims.context,
            "cnf": dict(claims.confirmation),
        }
        payload |= {name: value for name, value in optional.items() if value}
        text = jwt.encode(payload, key.private, "ES256", {"typ": inner.TYPE, "kid": key.kid})
        return InnerToken(text, expires)

    async def start(self) -> None:
        """Publish a first key, waiting for the authorization server for two minutes at most."""
        for attempt in range(1, PUBLISH_ATTEMPTS_MAX + 1):
            try:
                await self._renew()
                break
            except MeshError as error:
                if attempt == PUBLISH_ATTEMPTS_MAX:
                    raise
                log.warning("key_not_published", reason=error.reason, detail=error.message)
                await asyncio.sleep(PUBLISH_RETRY_S)
        self._task = asyncio.create_task(self._run(), name="mint")

    async def stop(self, grace_s: float) -> None:
        """Make no further key."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _renew(self) -> None:
        # The same again until it is answered for. One whose answer was lost may be kept and listed all the same, and
        # too many of them would crowd out the key that another gateway signs with.
        private = self._offered = self._offered or ec.generate_private_key(ec.SECP256R1())
        jwk = public_jwk(private.public_key())
        await self._publish(json.dumps(jwk, separators=(",", ":")))
        self._offered = None
        await asyncio.sleep(LEARN_S)
        self._key = _Key(private, jwk["kid"])
        # Not before the new key signs: until then they are good.
        self._made.clear()
        log.info("key_published", kid=jwk["kid"])

    async def _run(self) -> None:
        pause_s = KEY_LIFE_S
        while True:
            await asyncio.sleep(pause_s)
            try:
                await self._renew()
                pause_s = KEY_LIFE_S
            except MeshError as error:
                # The key in use is listed for twice its life.
                log.warning("key_not_published", reason=error.reason, detail=error.message)
                pause_s = 10.0
