"""Verification of tokens: access tokens of RFC 9068 and inner tokens, and nothing else that a library would let pass.

The rules are those of RFC 8725 (best practices for JWT): one algorithm, keys only from the issuer's own list, an
explicit type, every claim required and checked, no header that could bring a key of its own.
"""

import hashlib
import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from mesh.call import Claims
from mesh.clock import Clock
from mesh.errors import Unauthenticated
from security.tokens import inner
from security.tokens.keys import KeySource
from security.tokens.revocation import Revocations
from security.tokens.signature import COMPACT, signed_payload
from security.tokens.strict import decoded, strict_json

TOKEN_BYTES_MAX = 8 * 1024
KEY_ID_LENGTH_MAX = 128
NAME_LENGTH_MAX = 256
SCOPES_MAX = 64
CACHE_ENTRIES_MAX = 10_000
# How far the clocks of issuer and verifier may differ. Expiry gets no such grace.
CLOCK_SKEW_S = 5
HEADER_NAMES = frozenset({"alg", "kid", "typ"})
# RFC 9449, section 6.1, and RFC 8705, section 3.1: SHA-256 of a key or of a certificate, in base64url.
CONFIRMATIONS = frozenset({"jkt", "x5t#S256"})
THUMBPRINT = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of token; each is refused where another is expected (RFC 8725, section 3.11)."""

    # The header `typ`, short.
    type: str
    # A token that claims a longer life was not made by the rules it claims to follow.
    life_s_max: int
    # Whether it must say who acts for its subject.
    acted: bool


# The issuer gives ten minutes.
ACCESS = Kind("at+jwt", 3600, acted=False)
INNER = Kind(inner.TYPE, inner.LIFE_S, acted=True)


class TokenVerifier:
    """Accepts one kind of token of one issuer for one audience. Bounded in memory; for the tasks of one loop."""

    def __init__(
        self,
        keys: KeySource,
        issuer: str,
        audience: str,
        clock: Clock,
        revocations: Revocations | None = None,
        kind: Kind = ACCESS,
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._clock = clock
        self._revocations = revocations
        self._kind = kind
        self._types = frozenset({kind.type, f"application/{kind.type}"})
        # By digest, so that the memory of the process holds no token longer than its call. With the key, so that a
        # token is forgotten when its key is withdrawn.
        self._verified: OrderedDict[bytes, tuple[Claims, str, ec.EllipticCurvePublicKey]] = OrderedDict()

    async def verify(self, token: str) -> Claims:
        """The claims of a good token; Unauthenticated with a reason for every other, Unavailable without any keys."""
        known = self.recall(token)
        if known is not None:
            return known
        if len(token) > TOKEN_BYTES_MAX:
            raise Unauthenticated("TOKEN_TOO_LARGE", f"an access token has at most {TOKEN_BYTES_MAX} bytes")
        if not COMPACT.fullmatch(token):
            raise Unauthenticated("TOKEN_MALFORMED", "the access token is not a JWT signed with ES256")
        kid = _key_id(token, self._types)
        found = await self._keys.key(kid)
        if found is None:
            raise Unauthenticated("TOKEN_KEY", "the access token is signed with an unknown key")
        claims = self._check_claims(self._signed_payload(token, found), self._clock.now_us() // 1_000_000)
        self._verified[_digest(token)] = (claims, kid, found)
        if len(self._verified) > CACHE_ENTRIES_MAX:
            self._verified.popitem(last=False)
        if self._revocations is not None:
            self._revocations.check(claims)
        return claims

    def recall(self, token: str) -> Claims | None:
        """The claims of a token that was verified before and is still good; None where `verify` has to look.

        Unauthenticated for one that has been revoked since.
        """
        digest = _digest(token)
        known = self._verified.get(digest)
        if known is None:
            return None
        claims, kid, key = known
        if claims.expires * 1_000_000 > self._clock.now_us() and self._keys.held(kid) is key:
            if self._revocations is not None:
                self._revocations.check(claims)
            return claims
        del self._verified[digest]
        return None

    def _signed_payload(self, token: str, key: ec.EllipticCurvePublicKey) -> dict[str, Any]:
        try:
            return strict_json(signed_payload(token, key))
        except (ValueError, RecursionError) as error:
            raise Unauthenticated("TOKEN_SIGNATURE", "the access token's signature does not verify") from error

    def _check_claims(self, payload: dict[str, Any], now_s: int) -> Claims:
        if payload.get("iss") != self._issuer:
            raise Unauthenticated("TOKEN_ISSUER", "the access token is of another issuer")
        audience = payload.get("aud")
        if audience != self._audience and audience != [self._audience]:
            raise Unauthenticated("TOKEN_AUDIENCE", "the access token is for another audience")
        expires_at, issued_at = _seconds(payload, "exp"), _seconds(payload, "iat")
        if expires_at <= now_s:
            raise Unauthenticated("TOKEN_EXPIRED", "the access token has expired")
        not_before = _seconds(payload, "nbf") if "nbf" in payload else issued_at
        if max(not_before, issued_at) > now_s + CLOCK_SKEW_S:
            raise Unauthenticated("TOKEN_NOT_YET_VALID", "the access token is not valid yet")
        if expires_at - issued_at > self._kind.life_s_max:
            raise Unauthenticated("TOKEN_LIFE", f"such a token lives at most {self._kind.life_s_max} s")
        actors = inner.actors(payload)
        if self._kind.acted != bool(actors):
            raise Unauthenticated("TOKEN_CLAIMS", "the token does not say as it must who acts for its subject")
        scope = payload.get("scope", "")
        scopes = frozenset(scope.split(" ")) - {""} if isinstance(scope, str) else None
        if scopes is None or len(scopes) > SCOPES_MAX:
            raise Unauthenticated("TOKEN_CLAIMS", "the access token's scope is malformed")
        return Claims(
            subject=_name(payload, "sub"),
            client_id=_name(payload, "client_id"),
            scopes=scopes,
            expires=expires_at,
            token_id=_name(payload, "jti"),
            # Of the token that the member or the client was given, which is what a revocation is about.
            issued=_seconds(payload, "origin_iat") if actors else issued_at,
            session_id=_name(payload, "sid") if "sid" in payload else "",
            authenticated=_seconds(payload, "auth_time") if "auth_time" in payload else 0,
            context=_name(payload, "acr") if "acr" in payload else "",
            confirmation=_confirmation(payload),
            actors=actors,
            origin=_name(payload, "origin") if actors else "",
        )


def _digest(token: str) -> bytes:
    # What is not ASCII was never verified, whatever stands in its place. BLAKE2 (RFC 7693) is Python's own code here,
    # and asks no provider of OpenSSL for itself in every call.
    return hashlib.blake2b(token.encode("ascii", "replace"), digest_size=32).digest()


def _confirmation(payload: dict[str, Any]) -> dict[str, str]:
    """What the token is bound to; a binding that cannot be checked here is a refusal, not a token without one."""
    found = payload.get("cnf", {})
    if not isinstance(found, dict) or ("cnf" in payload and not found) or found.keys() - CONFIRMATIONS:
        raise Unauthenticated("TOKEN_CLAIMS", "the access token is bound to something unknown")
    if not all(isinstance(value, str) and THUMBPRINT.fullmatch(value) for value in found.values()):
        raise Unauthenticated("TOKEN_CLAIMS", "the access token's binding is malformed")
    return found


def _key_id(token: str, types: frozenset[str]) -> str:
    """The id of the key that the token says it is signed with, once its header has nothing else to say."""
    try:
        header = strict_json(decoded(token.partition(".")[0]))
    except (ValueError, RecursionError) as error:
        raise Unauthenticated("TOKEN_MALFORMED", "the access token's header is not JSON") from error
    if header.get("alg") != "ES256":
        raise Unauthenticated("TOKEN_ALGORITHM", "the access token must be signed with ES256")
    if header.keys() - HEADER_NAMES:
        raise Unauthenticated("TOKEN_HEADER", "the access token's header may hold alg, kid and typ only")
    kind = header.get("typ")
    if not isinstance(kind, str) or kind.lower() not in types:
        raise Unauthenticated("TOKEN_TYPE", "the token is of another kind than is asked for here (typ)")
    kid = header.get("kid")
    if not isinstance(kid, str) or not 0 < len(kid) <= KEY_ID_LENGTH_MAX:
        raise Unauthenticated("TOKEN_KEY", "the access token must name its key")
    return kid


def _seconds(payload: dict[str, Any], name: str) -> int:
    value = payload.get(name)
    if type(value) is not int or not 0 <= value < 2**53:
        raise Unauthenticated("TOKEN_CLAIMS", f"the access token's {name} is missing or not a number of seconds")
    return value


def _name(payload: dict[str, Any], name: str) -> str:
    value = payload.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= NAME_LENGTH_MAX:
        raise Unauthenticated("TOKEN_CLAIMS", f"the access token's {name} is missing or malformed")
    return value
