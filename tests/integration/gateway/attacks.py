"""Everything that must be refused, as data: what is sent to the decision point, and what to a service itself."""

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from mesh.contract import MethodPolicy
from security.tokens import inner
from security.tokens.admission import STEP_UP_AGE_S, STEP_UP_CONTEXT
from security.tokens.jwk import public_jwk

ISSUER: Final = "https://localhost:1"
AUDIENCE: Final = "isthmus-core"
TRUST_DOMAIN: Final = "isthmus.internal"
CORE: Final = f"spiffe://{TRUST_DOMAIN}/private/core-gateway"
EDGE: Final = f"spiffe://{TRUST_DOMAIN}/public/edge-gateway"
REVOKED: Final = "revoked-token"
ISSUER_KEY: Final = ec.generate_private_key(ec.SECP256R1())
GATEWAY_KEY: Final = ec.generate_private_key(ec.SECP256R1())
HOLDER: Final = ec.generate_private_key(ec.SECP256R1())
THIEF: Final = ec.generate_private_key(ec.SECP256R1())
CERTIFICATE: Final = base64.urlsafe_b64encode(b"c" * 32).rstrip(b"=").decode()


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(header: str, payload: str, key: ec.EllipticCurvePrivateKey) -> str:
    """A token of exactly these texts, correctly signed."""
    text = f"{b64(header.encode())}.{b64(payload.encode())}"
    r, s = decode_dss_signature(key.sign(text.encode(), ec.ECDSA(SHA256())))
    return f"{text}.{b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def kid(key: ec.EllipticCurvePrivateKey) -> str:
    return public_jwk(key.public_key())["kid"]


def outside(method: MethodPolicy, now_s: int, header: dict[str, Any] | None = None, **changes: Any) -> str:
    """An access token that the method takes, but for the changes."""
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "member-1",
        "client_id": "shop-web",
        "scope": " ".join(sorted(method.scopes)),
        "iat": now_s,
        "exp": now_s + 300,
        "jti": secrets.token_hex(8),
        **_signed_in(method, now_s),
    }
    full = {"alg": "ES256", "typ": "at+jwt", "kid": kid(ISSUER_KEY)} | (header or {})
    said = {name: value for name, value in (claims | changes).items() if value is not ...}
    return signed(json.dumps({k: v for k, v in full.items() if v is not ...}), json.dumps(said), ISSUER_KEY)


def _signed_in(method: MethodPolicy, now_s: int) -> dict[str, Any]:
    """With both factors, a moment ago, where the method asks for that."""
    return {"acr": STEP_UP_CONTEXT, "auth_time": now_s} if method.step_up else {}


def inside(method: MethodPolicy, now_s: int, presenter: str, **changes: Any) -> str:
    """An inner token with which `presenter` may call the method, but for the changes."""
    key = changes.pop("key", GATEWAY_KEY)
    claims = {
        "iss": inner.issuer(TRUST_DOMAIN),
        "aud": method.workload,
        "sub": "member-1",
        "client_id": "shop-web",
        "scope": " ".join(sorted(method.scopes)),
        "iat": now_s,
        "exp": now_s + inner.LIFE_S,
        "jti": secrets.token_hex(8),
        "origin": secrets.token_hex(8),
        "origin_iat": now_s,
        "act": {"sub": presenter},
        **_signed_in(method, now_s),
    }
    said = {name: value for name, value in (claims | changes).items() if value is not ...}
    header = {"alg": "ES256", "typ": inner.TYPE, "kid": kid(key)}
    return signed(json.dumps(header), json.dumps(said), key)


def hs256(method: MethodPolicy, now_s: int) -> str:
    """Signed by HMAC with the issuer's public key as the secret."""
    pem = ISSUER_KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    head = b64(json.dumps({"alg": "HS256", "typ": "at+jwt", "kid": kid(ISSUER_KEY)}).encode())
    text = f"{head}.{outside(method, now_s).split('.')[1]}"
    return f"{text}.{b64(hmac.digest(pem, text.encode(), hashlib.sha256))}"


def rs256(method: MethodPolicy, now_s: int) -> str:
    claims = jwt.decode(outside(method, now_s), options={"verify_signature": False})
    key = rsa.generate_private_key(65537, 2048)
    return jwt.encode(claims, key, "RS256", {"typ": "at+jwt", "kid": kid(ISSUER_KEY)})


def twice(method: MethodPolicy, now_s: int, part: int) -> str:
    """A name twice: in the header (part 0) or among the claims (part 1)."""
    header, payload = (base64.urlsafe_b64decode(each + "==").decode() for each in outside(method, now_s).split(".")[:2])
    if part == 0:
        header = header[:-1] + ', "alg": "ES256"}'
    else:
        payload = payload[:-1] + ', "sub": "root"}'
    return signed(header, payload, ISSUER_KEY)


def proof(key: ec.EllipticCurvePrivateKey, token: str, now_s: int, nonce: str) -> str:
    """A proof of possession for the request that the table makes."""
    point = {name: value for name, value in public_jwk(key.public_key()).items() if name in {"kty", "crv", "x", "y"}}
    ath = b64(hashlib.sha256(token.encode()).digest())
    said = {"jti": secrets.token_hex(8), "htm": "POST", "htu": f"{ISSUER}/x", "iat": now_s, "ath": ath, "nonce": nonce}
    return jwt.encode(said, key, "ES256", {"typ": "dpop+jwt", "jwk": point})


Token = Callable[[MethodPolicy, int], str]


@dataclass(frozen=True)
class Attack:
    """One attack on a decision: a token, and what else is sent."""

    name: str
    token: Token
    # The rules that may refuse it; the first that is broken does.
    rules: frozenset[str]
    scheme: str = "Bearer"
    # Whose proof comes along, and whether it comes a second time.
    proven_by: ec.EllipticCurvePrivateKey | None = None
    replayed: bool = False
    # Who sends it to the core gateway.
    peer: str = EDGE
    applies: Callable[[MethodPolicy], bool] = field(default=lambda method: True)


def _attack(name: str, rules: str, token: Token, **more: Any) -> Attack:
    return Attack(name, token, frozenset(rules.split()), **more)


def _bound(method: MethodPolicy, now_s: int) -> str:
    return outside(method, now_s, cnf={"jkt": kid(HOLDER)})


DECISIONS: Final = (
    _attack("no token", "TOKEN_MISSING", lambda m, t: ""),
    _attack("no token, but credentials", "TOKEN_MISSING", lambda m, t: "dXNlcjpwYXNz", scheme="Basic"),
    _attack("expired", "TOKEN_EXPIRED", lambda m, t: outside(m, t, iat=t - 400, exp=t - 1)),
    _attack("not yet valid", "TOKEN_NOT_YET_VALID", lambda m, t: outside(m, t, nbf=t + 60)),
    _attack("issued in the future", "TOKEN_NOT_YET_VALID", lambda m, t: outside(m, t, iat=t + 60)),
    _attack("no exp", "TOKEN_CLAIMS", lambda m, t: outside(m, t, exp=...)),
    _attack("a life of a day", "TOKEN_LIFE", lambda m, t: outside(m, t, exp=t + 86_400)),
    _attack("wrong issuer", "TOKEN_ISSUER", lambda m, t: outside(m, t, iss="https://evil.example")),
    _attack("wrong audience", "TOKEN_AUDIENCE", lambda m, t: outside(m, t, aud="elsewhere")),
    _attack("two audiences", "TOKEN_AUDIENCE", lambda m, t: outside(m, t, aud=[AUDIENCE, "elsewhere"])),
    _attack("wrong type", "TOKEN_TYPE", lambda m, t: outside(m, t, {"typ": "JWT"})),
    _attack("no type", "TOKEN_TYPE", lambda m, t: outside(m, t, {"typ": ...})),
    _attack("an inner token from outside", "TOKEN_TYPE", lambda m, t: inside(m, t, CORE)),
    _attack("alg none", "TOKEN_ALGORITHM", lambda m, t: outside(m, t, {"alg": "none"})),
    _attack("alg none, no signature", "TOKEN_MALFORMED", lambda m, t: outside(m, t).rpartition(".")[0] + "."),
    _attack("HMAC with the public key", "TOKEN_MALFORMED TOKEN_ALGORITHM", hs256),
    _attack("RSA", "TOKEN_MALFORMED TOKEN_ALGORITHM", rs256),
    _attack("unknown kid", "TOKEN_KEY", lambda m, t: outside(m, t, {"kid": "unknown"})),
    _attack("no kid", "TOKEN_KEY", lambda m, t: outside(m, t, {"kid": ...})),
    _attack("kid that is a path", "TOKEN_KEY", lambda m, t: outside(m, t, {"kid": "../../../../dev/null"})),
    _attack("kid that is SQL", "TOKEN_KEY", lambda m, t: outside(m, t, {"kid": "' OR '1'='1"})),
    _attack("embedded jwk", "TOKEN_HEADER", lambda m, t: outside(m, t, {"jwk": public_jwk(ISSUER_KEY.public_key())})),
    _attack("jku", "TOKEN_HEADER", lambda m, t: outside(m, t, {"jku": "https://evil.example/keys"})),
    _attack("x5u", "TOKEN_HEADER", lambda m, t: outside(m, t, {"x5u": "https://evil.example/chain"})),
    _attack("crit", "TOKEN_HEADER", lambda m, t: outside(m, t, {"crit": ["exp"]})),
    _attack("duplicate claim", "TOKEN_SIGNATURE", lambda m, t: twice(m, t, 1)),
    _attack("duplicate header", "TOKEN_MALFORMED", lambda m, t: twice(m, t, 0)),
    _attack("two tokens in one header", "TOKEN_MALFORMED", lambda m, t: f"{outside(m, t)},Bearer {outside(m, t)}"),
    _attack("changed claims", "TOKEN_SIGNATURE", lambda m, t: _spliced(m, t)),
    _attack("another's key, known kid", "TOKEN_SIGNATURE", lambda m, t: _by_another(m, t)),
    _attack("huge", "TOKEN_TOO_LARGE", lambda m, t: outside(m, t, padding="x" * 9000)),
    _attack("revoked", "TOKEN_REVOKED", lambda m, t: outside(m, t, jti=REVOKED)),
    _attack(
        "a scope less",
        "SCOPE_MISSING",
        lambda m, t: outside(m, t, scope="none.at.all"),
        applies=lambda m: bool(m.scopes),
    ),
    _attack(
        "a client's own, where a member is asked for",
        "MEMBER_REQUIRED",
        lambda m, t: outside(m, t, sub="shop-web"),
        applies=lambda m: m.human,
    ),
    _attack(
        "second factor missing",
        "STEP_UP_REQUIRED",
        lambda m, t: outside(m, t, acr=...),
        applies=lambda m: m.step_up,
    ),
    _attack(
        "second factor stale",
        "STEP_UP_REQUIRED",
        lambda m, t: outside(m, t, auth_time=t - STEP_UP_AGE_S - 1),
        applies=lambda m: m.step_up,
    ),
    _attack("bound to a key, no proof", "PROOF_MISSING", _bound, scheme="DPoP"),
    _attack("bound to a key, sent as if it were not", "PROOF_MISSING", _bound, proven_by=HOLDER),
    _attack("bound to a key, another's proof", "PROOF_INVALID", _bound, scheme="DPoP", proven_by=THIEF),
    _attack(
        "bound to a key, a proof replayed", "PROOF_REPLAYED", _bound, scheme="DPoP", proven_by=HOLDER, replayed=True
    ),
    _attack("a proof for a token that is bound to none", "TOKEN_BINDING", outside, scheme="DPoP", proven_by=THIEF),
    _attack(
        "bound to a certificate, shown with another",
        "TOKEN_BINDING",
        lambda m, t: outside(m, t, cnf={"x5t#S256": CERTIFICATE}),
    ),
    _attack(
        "bound to nothing, sent by a workload",
        "TOKEN_BINDING",
        outside,
        peer=f"spiffe://{TRUST_DOMAIN}/private/operator",
    ),
    _attack("bound to something unknown", "TOKEN_CLAIMS", lambda m, t: outside(m, t, cnf={"kid": "x"})),
)


def _spliced(method: MethodPolicy, now_s: int) -> str:
    head, _, signature = outside(method, now_s).split(".")
    return f"{head}.{outside(method, now_s, sub='root').split('.')[1]}.{signature}"


def _by_another(method: MethodPolicy, now_s: int) -> str:
    header, payload, _ = outside(method, now_s).split(".")
    header, payload = (base64.urlsafe_b64decode(each + "==").decode() for each in (header, payload))
    return signed(header, payload, THIEF)


@dataclass(frozen=True)
class Intrusion:
    """One attack on a service itself, over mTLS: with whose certificate, and with which token."""

    name: str
    # Of the private zone; "" for one that the method names as a caller.
    workload: str
    token: Callable[[MethodPolicy, int, str], str]
    rules: frozenset[str]
    # Whether it concerns methods that ask for no token, too.
    everywhere: bool = False
    # Whether it concerns methods with step-up alone.
    step_up: bool = False


def _intrusion(name: str, rules: str, workload: str, token: Any, **more: Any) -> Intrusion:
    return Intrusion(name, workload, token, frozenset(rules.split()), **more)


# A workload of the zone that no method names as a caller, and that serves none.
STRANGER: Final = "migrate"
INTRUSIONS: Final = (
    _intrusion("right SPIFFE id, no token", "TOKEN_MISSING", "", lambda m, t, by: ""),
    _intrusion("an access token that was not exchanged", "TOKEN_TYPE", "", lambda m, t, by: outside(m, t)),
    _intrusion("made for another service", "TOKEN_AUDIENCE", "", lambda m, t, by: inside(m, t, by, aud="elsewhere")),
    _intrusion("made for another to present", "TOKEN_PRESENTER", "", lambda m, t, by: inside(m, t, f"{CORE}-2")),
    _intrusion("inner, expired", "TOKEN_EXPIRED", "", lambda m, t, by: inside(m, t, by, iat=t - 60, exp=t)),
    _intrusion("inner, a life of an hour", "TOKEN_LIFE", "", lambda m, t, by: inside(m, t, by, exp=t + 3600)),
    _intrusion("inner, no actor", "TOKEN_CLAIMS", "", lambda m, t, by: inside(m, t, by, act=...)),
    _intrusion(
        "inner, signed with the issuer's key", "TOKEN_KEY", "", lambda m, t, by: inside(m, t, by, key=ISSUER_KEY)
    ),
    _intrusion("inner, a scope less", "SCOPE_MISSING", "", lambda m, t, by: inside(m, t, by, scope="none.at.all")),
    _intrusion(
        "inner, second factor missing",
        "STEP_UP_REQUIRED",
        "",
        lambda m, t, by: inside(m, t, by, acr=...),
        step_up=True,
    ),
    _intrusion("inner, of a revoked token", "TOKEN_REVOKED", "", lambda m, t, by: inside(m, t, by, origin=REVOKED)),
    _intrusion(
        "right token, wrong SPIFFE id",
        "CALLER_NOT_ALLOWED",
        STRANGER,
        lambda m, t, by: inside(m, t, CORE),
        everywhere=True,
    ),
)
