"""ID tokens of outside providers: one good one, and all that must prove nobody."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey
from joserfc.jws import serialize_compact

from security.oauth.federation.id_token import Expected, UnknownKeyError, person, public_keys
from security.oauth.federation.port import CLOCK_SKEW_S, NotProvenError, Person, Wanted

ISSUER, CLIENT, NONCE = "https://id.example/realms/shop", "isthmus", "n" * 43
NOW = int(time.time())
EXPECTED = Expected(ISSUER, CLIENT, NONCE)
ANY_AGE = Wanted(NOW)


@cache
def key(kid: str, kind: str = "EC") -> ECKey | RSAKey:
    if kind == "RSA":
        return RSAKey.generate_key(2048, {"kid": kid, "use": "sig"})
    return ECKey.generate_key("P-256", {"kid": kid, "use": "sig"})


KEYS = public_keys({"keys": [key("1").as_dict(private=False), key("2", "RSA").as_dict(private=False)]})


def claims(**changes: Any) -> dict[str, Any]:
    made = {
        "iss": ISSUER,
        "sub": "f3b0",
        "aud": CLIENT,
        "iat": NOW,
        "exp": NOW + 60,
        "auth_time": NOW - 5,
        "nonce": NONCE,
    } | changes
    return {name: value for name, value in made.items() if value is not None}


def signed(payload: Mapping[str, Any], by: Any = None, **header: Any) -> str:
    named = {"alg": "ES256", "kid": "1"} | header
    return jwt.encode(
        {name: value for name, value in named.items() if value is not None},
        dict(payload),
        by or key("1"),
        algorithms=["ES256", "RS256", "PS256", "HS256", "RS512"],
    )


def raw(header: str, payload: Mapping[str, Any], signature: bytes = b"") -> str:
    parts = (header.encode(), json.dumps(dict(payload)).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def hs256(secret: bytes) -> str:
    """Signed by a public key, taken for a secret that both know."""
    unsigned = raw('{"alg":"HS256","kid":"2"}', claims()).rstrip(".")
    mark = hmac.digest(secret, unsigned.encode(), hashlib.sha256)
    return f"{unsigned}.{base64.urlsafe_b64encode(mark).rstrip(b'=').decode()}"


def proven(token: str, wanted: Wanted = ANY_AGE) -> Person:
    return person(token, KEYS, EXPECTED, wanted, NOW)


@pytest.mark.parametrize(
    "token",
    [
        signed(claims()),
        signed(claims(), key("2", "RSA"), alg="RS256", kid="2"),
        signed(claims(), key("2", "RSA"), alg="PS256", kid="2"),
        # One key of the kind: it needs no name.
        signed(claims(), kid=None),
        signed(claims(aud=[CLIENT, "other"], azp=CLIENT)),
        signed(claims(exp=NOW - CLOCK_SKEW_S + 2)),
    ],
    ids=["ES256", "RS256", "PS256", "no kid", "two audiences, ours authorized", "within the skew"],
)
def test_a_good_token_names_somebody_there(token: str) -> None:
    assert proven(token) == Person(ISSUER, "f3b0", datetime.fromtimestamp(NOW - 5, UTC))


BAD: dict[str, tuple[Callable[[], str], str]] = {
    "another issuer": (lambda: signed(claims(iss="https://evil.example")), "ID_TOKEN_ISSUER"),
    "no issuer": (lambda: signed(claims(iss=None)), "ID_TOKEN_ISSUER"),
    "another audience": (lambda: signed(claims(aud="other")), "ID_TOKEN_AUDIENCE"),
    "no audience": (lambda: signed(claims(aud=None)), "ID_TOKEN_AUDIENCE"),
    "two audiences": (lambda: signed(claims(aud=[CLIENT, "other"])), "ID_TOKEN_AUDIENCE"),
    "another party": (lambda: signed(claims(aud=[CLIENT, "other"], azp="other")), "ID_TOKEN_AUDIENCE"),
    "another nonce": (lambda: signed(claims(nonce="m" * 43)), "ID_TOKEN_NONCE"),
    "no nonce": (lambda: signed(claims(nonce=None)), "ID_TOKEN_NONCE"),
    "expired": (lambda: signed(claims(exp=NOW - CLOCK_SKEW_S - 1)), "ID_TOKEN_EXPIRED"),
    "no expiry": (lambda: signed(claims(exp=None)), "ID_TOKEN_CLAIMS"),
    "no issue time": (lambda: signed(claims(iat=None)), "ID_TOKEN_CLAIMS"),
    "issued later": (lambda: signed(claims(iat=NOW + CLOCK_SKEW_S + 60)), "ID_TOKEN_CLAIMS"),
    "not yet valid": (lambda: signed(claims(nbf=NOW + CLOCK_SKEW_S + 60)), "ID_TOKEN_CLAIMS"),
    "no subject": (lambda: signed(claims(sub=None)), "ID_TOKEN_CLAIMS"),
    "a subject that is none": (lambda: signed(claims(sub=["f3b0"])), "ID_TOKEN_"),
    "a long subject": (lambda: signed(claims(sub="x" * 256)), "ID_TOKEN_SUBJECT"),
    "a sign-in to come": (lambda: signed(claims(auth_time=NOW + 3600)), "ID_TOKEN_CLAIMS"),
    "alg none": (lambda: raw('{"alg":"none"}', claims(), b"x"), "ID_TOKEN_ALGORITHM"),
    "an empty signature": (lambda: raw('{"alg":"ES256","kid":"1"}', claims()), "ID_TOKEN_MALFORMED"),
    "alg HS256 by the public key": (
        lambda: hs256(key("2", "RSA").as_pem(private=False)),
        "ID_TOKEN_ALGORITHM",
    ),
    "RS256 by the name of an EC key": (lambda: signed(claims(), key("3", "RSA"), alg="RS256", kid="1"), "ID_TOKEN_KEY"),
    "an algorithm that is not taken": (
        lambda: signed(claims(), key("2", "RSA"), alg="RS512", kid="2"),
        "ID_TOKEN_ALGORITHM",
    ),
    "signed by another key of that name": (lambda: signed(claims(), key("other")), "ID_TOKEN_SIGNATURE"),
    "a name that is no key's": (lambda: signed(claims(), kid="../../etc/passwd"), "ID_TOKEN_KEY"),
    "its own key along": (
        lambda: signed(claims(), key("other"), jwk=key("other").as_dict(private=False)),
        "ID_TOKEN_HEADER",
    ),
    "an address of keys": (lambda: signed(claims(), key("other"), jku="https://evil.example/jwks"), "ID_TOKEN_HEADER"),
    "another kind of token": (lambda: signed(claims(), typ="at+jwt"), "ID_TOKEN_HEADER"),
    "a name twice in its header": (lambda: raw('{"alg":"ES256","alg":"none"}', claims(), b"x"), "ID_TOKEN_MALFORMED"),
    "no token": (lambda: "", "ID_TOKEN_MALFORMED"),
    "five parts": (lambda: "a.b.c.d.e", "ID_TOKEN_MALFORMED"),
    "a long token": (lambda: signed(claims(more="x" * 20_000)), "ID_TOKEN_MALFORMED"),
}


@pytest.mark.parametrize("name", BAD)
def test_every_other_token_proves_nobody(name: str) -> None:
    make, rule = BAD[name]
    with pytest.raises(NotProvenError) as refused:
        proven(make())
    assert refused.value.rule.startswith(rule)


def test_a_claim_twice_is_refused_though_it_is_signed() -> None:
    header, payload, _ = signed(claims()).split(".")
    text = base64.urlsafe_b64decode(payload + "==").decode()
    twice = base64.urlsafe_b64encode(text.replace("{", '{"sub":"root",', 1).encode()).rstrip(b"=").decode()
    decoded = base64.urlsafe_b64decode(twice + "=" * (-len(twice) % 4))
    token = serialize_compact({"alg": "ES256", "kid": "1"}, decoded, key("1"), algorithms=["ES256"])
    assert header
    with pytest.raises(NotProvenError, match="ID_TOKEN_SIGNATURE"):
        proven(token)


def test_an_unknown_key_is_told_apart_for_the_list_may_be_old() -> None:
    with pytest.raises(UnknownKeyError):
        proven(signed(claims(), key("new"), kid="new"))


@pytest.mark.parametrize(
    ("told", "age_s_max", "fresh"),
    [(0, 0, True), (-CLOCK_SKEW_S - 5, 0, False), (-300, 600, True), (-700, 600, False), (None, 600, False)],
)
def test_a_sign_in_is_as_fresh_as_it_was_asked_for(told: int | None, age_s_max: int, fresh: bool) -> None:
    token = signed(claims(auth_time=None if told is None else NOW + told))
    if fresh:
        assert proven(token, Wanted(NOW, age_s_max)).subject == "f3b0"
        return
    with pytest.raises(NotProvenError, match="NOT_FRESH"):
        proven(token, Wanted(NOW, age_s_max))


def test_a_provider_that_does_not_say_when_is_believed_for_no_time() -> None:
    assert proven(signed(claims(auth_time=None))).signed_in_at is None


@pytest.mark.parametrize(
    "jwks", [{}, {"keys": {}}, {"keys": ["x"]}, {"keys": [{}] * 33}], ids=["none", "no list", "no keys", "too many"]
)
def test_what_is_no_list_of_keys_is_refused(jwks: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="JWK set"):
        public_keys(jwks)


def test_only_public_signing_keys_of_a_list_count() -> None:
    secret = {"kty": "oct", "kid": "1", "k": "AAAA"}
    private = key("1").as_dict(private=True)
    encrypting = key("1").as_dict(private=False) | {"use": "enc"}
    assert public_keys({"keys": [secret, private, encrypting]}) == []


def test_a_weak_key_verifies_nothing() -> None:
    with pytest.warns(Warning, match="2048"):
        weak = RSAKey.generate_key(1024, {"kid": "w"})
    token = signed(claims(), weak, alg="RS256", kid="w")
    with pytest.raises(NotProvenError, match="ID_TOKEN_KEY"):
        person(token, [weak.as_dict(private=False)], EXPECTED, ANY_AGE, NOW)
