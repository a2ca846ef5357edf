"""ID tokens (OpenID Connect Core, section 3.1.3.7), read by the rules of RFC 8725.

The keys are the provider's own list, the algorithm is one of three that need a private key, and no header brings a key.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from authlib.oidc.core import CodeIDToken
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey
from joserfc.jws import deserialize_compact

from security.oauth.federation.port import CLOCK_SKEW_S, NotProvenError, Person, Wanted
from security.tokens.strict import decoded, strict_json

TOKEN_CHARACTERS_MAX: Final = 16 * 1024
KEYS_MAX: Final = 32
RSA_BITS_MIN: Final = 2048
# By algorithm, the kind of key that verifies it: what a public key could be mistaken for as a secret is not among them.
ALGORITHMS: Final[Mapping[str, tuple[str, str]]] = {
    "RS256": ("RSA", ""),
    "PS256": ("RSA", ""),
    "ES256": ("EC", "P-256"),
}
_BRINGS_A_KEY: Final = frozenset({"jwk", "jku", "x5u", "x5c", "crit", "b64", "zip"})
# OpenID Connect Core, section 2: at most 255 characters of ASCII.
_SUBJECT: Final = re.compile(r"[\x20-\x7e]{1,255}")
_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)


class UnknownKeyError(NotProvenError):
    """No key of the list has this id: the provider may have a newer list."""

    def __init__(self) -> None:
        super().__init__("ID_TOKEN_KEY", "no such key is published")


@dataclass(frozen=True)
class Expected:
    """What an ID token must say. nonce: of this browser's round trip."""

    issuer: str
    client_id: str
    nonce: str


def public_keys(jwks: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The keys of a JWK set that may sign ID tokens. ValueError for what is no such set."""
    keys = jwks.get("keys")
    if not isinstance(keys, list) or len(keys) > KEYS_MAX or not all(isinstance(each, dict) for each in keys):
        raise ValueError(f"a JWK set has a list of at most {KEYS_MAX} keys")
    kinds = {kind for kind, _ in ALGORITHMS.values()}
    return [key for key in keys if key.get("kty") in kinds and key.get("use", "sig") == "sig" and "d" not in key]


def person(token: str, keys: Sequence[Mapping[str, Any]], expected: Expected, wanted: Wanted, now_s: int) -> Person:
    """Whom a good token names. NotProvenError for any other, UnknownKeyError where its key is not among `keys`."""
    header = _header(token)
    key = _key(header, keys)
    try:
        verified = deserialize_compact(token, key, algorithms=[header["alg"]])
        claims = strict_json(bytes(verified.payload or b""))
    except (JoseError, ValueError, RecursionError) as error:
        raise NotProvenError("ID_TOKEN_SIGNATURE", type(error).__name__) from None
    _check(claims, header, expected, now_s)
    subject = claims["sub"]
    if not isinstance(subject, str) or not _SUBJECT.fullmatch(subject):
        raise NotProvenError("ID_TOKEN_SUBJECT")
    return Person(expected.issuer, subject, _signed_in_at(claims, wanted, now_s))


def _header(token: str) -> dict[str, Any]:
    if len(token) > TOKEN_CHARACTERS_MAX or not _COMPACT.fullmatch(token):
        raise NotProvenError("ID_TOKEN_MALFORMED")
    try:
        header = strict_json(decoded(token.partition(".")[0]))
    except (ValueError, RecursionError):
        raise NotProvenError("ID_TOKEN_MALFORMED") from None
    if header.get("alg") not in ALGORITHMS:
        raise NotProvenError("ID_TOKEN_ALGORITHM")
    if not _BRINGS_A_KEY.isdisjoint(header) or str(header.get("typ", "JWT")).upper() != "JWT":
        raise NotProvenError("ID_TOKEN_HEADER")
    return header


def _key(header: Mapping[str, Any], keys: Sequence[Mapping[str, Any]]) -> RSAKey | ECKey:
    """The one key that the header can mean: of this id, or where it has none the only one of its kind."""
    algorithm = header["alg"]
    kind, curve = ALGORITHMS[algorithm]
    fitting = [
        key
        for key in keys
        if key.get("kty") == kind and key.get("alg", algorithm) == algorithm and (not curve or key.get("crv") == curve)
    ]
    if "kid" in header:
        fitting = [key for key in fitting if key.get("kid") == header["kid"]]
    if len(fitting) != 1:
        raise UnknownKeyError
    try:
        if kind == "EC":
            return ECKey.import_key(dict(fitting[0]))
        if int.from_bytes(decoded(fitting[0]["n"]), "big").bit_length() < RSA_BITS_MIN:
            raise ValueError(f"an RSA key has at least {RSA_BITS_MIN} bits")
        return RSAKey.import_key(dict(fitting[0]))
    except (JoseError, ValueError, TypeError, KeyError) as error:
        raise NotProvenError("ID_TOKEN_KEY", f"the published key is not good: {error}"[:96]) from None


def _check(claims: dict[str, Any], header: dict[str, Any], expected: Expected, now_s: int) -> None:
    """Issuer, audience and authorized party, expiry, and the nonce, as Authlib checks them."""
    for name, value in (("iss", expected.issuer), ("nonce", expected.nonce)):
        if claims.get(name) != value:
            raise NotProvenError("ID_TOKEN_ISSUER" if name == "iss" else "ID_TOKEN_NONCE")
    token = CodeIDToken(
        claims,
        header,
        {"aud": {"essential": True, "value": expected.client_id}},
        {"nonce": expected.nonce, "client_id": expected.client_id},
    )
    try:
        token.validate(now=now_s, leeway=CLOCK_SKEW_S)
    except JoseError as error:
        claim = str(getattr(error, "claim", "") or "")
        expired = error.error == "expired_token"
        named = {"aud": "ID_TOKEN_AUDIENCE", "azp": "ID_TOKEN_AUDIENCE"}.get(claim, "ID_TOKEN_CLAIMS")
        raise NotProvenError("ID_TOKEN_EXPIRED" if expired else named, f"{error.error} {claim}") from None


def _signed_in_at(claims: Mapping[str, Any], wanted: Wanted, now_s: int) -> datetime | None:
    told = claims.get("auth_time")
    if told is None:
        if wanted.age_s_max is not None:
            raise NotProvenError("NOT_FRESH", "the provider does not say when")
        return None
    if isinstance(told, bool) or not isinstance(told, int) or not 0 < told <= now_s + CLOCK_SKEW_S:
        raise NotProvenError("ID_TOKEN_CLAIMS", "auth_time")
    if wanted.age_s_max is not None and told < wanted.started_s - wanted.age_s_max - CLOCK_SKEW_S:
        raise NotProvenError("NOT_FRESH", "the sign-in there is too old")
    return datetime.fromtimestamp(min(told, now_s), UTC)
