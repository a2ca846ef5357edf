"""The verifier accepts one kind of token and says of every other which rule it breaks."""

import base64
import hashlib
import hmac
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from mesh.errors import Unauthenticated
from security.tokens import verifier as verifier_module
from security.tokens.verifier import TokenVerifier
from tests.unit.tokens.conftest import NOW_S, FakeClock

ISSUER = "https://localhost:18400"
AUDIENCE = "isthmus-core"
KEY = ec.generate_private_key(ec.SECP256R1())
KID = "key-1"


class FixedKeys:
    def __init__(self) -> None:
        self.keys = {KID: KEY.public_key()}

    def held(self, kid: str) -> ec.EllipticCurvePublicKey | None:
        return self.keys.get(kid)

    async def key(self, kid: str) -> ec.EllipticCurvePublicKey | None:
        return self.held(kid)


@pytest.fixture
def keys() -> FixedKeys:
    return FixedKeys()


@pytest.fixture
def verifier(keys: FixedKeys, clock: FakeClock) -> TokenVerifier:
    return TokenVerifier(keys, ISSUER, AUDIENCE, clock)


def claims(**changes: Any) -> dict[str, Any]:
    good = {
        "iss": ISSUER,
        "sub": "storefront",
        "aud": AUDIENCE,
        "exp": NOW_S + 600,
        "iat": NOW_S,
        "jti": "j1",
        "client_id": "storefront",
        "scope": "orders.read orders.write",
    }
    return {name: value for name, value in (good | changes).items() if value is not ...}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def raw_token(header: str, payload: str, key: ec.EllipticCurvePrivateKey = KEY) -> str:
    """A token of exactly these texts, correctly signed."""
    signing_input = f"{b64(header.encode())}.{b64(payload.encode())}"
    r, s = decode_dss_signature(key.sign(signing_input.encode(), ec.ECDSA(SHA256())))
    return f"{signing_input}.{b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def token(header: dict[str, Any] | None = None, **changes: Any) -> str:
    full = {"alg": "ES256", "kid": KID, "typ": "at+jwt"} | (header or {})
    full = {name: value for name, value in full.items() if value is not ...}
    return raw_token(json.dumps(full), json.dumps(claims(**changes)))


async def refusal(verifier: TokenVerifier, text: str) -> str:
    with pytest.raises(Unauthenticated) as caught:
        await verifier.verify(text)
    # A refusal names the rule and repeats nothing of the token.
    assert text == "" or text not in str(caught.value)
    return caught.value.reason


async def test_a_good_token_gives_its_claims(verifier: TokenVerifier) -> None:
    found = await verifier.verify(token())
    assert (found.subject, found.client_id, found.token_id) == ("storefront", "storefront", "j1")
    assert found.scopes == {"orders.read", "orders.write"}
    assert found.expires == NOW_S + 600
    assert not found.is_member


@pytest.mark.parametrize("kind", ["at+jwt", "AT+JWT", "application/at+jwt"])
async def test_both_names_of_the_type_are_accepted(verifier: TokenVerifier, kind: str) -> None:
    assert await verifier.verify(token({"typ": kind}))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": NOW_S}, "TOKEN_EXPIRED"),
        ({"exp": NOW_S - 1}, "TOKEN_EXPIRED"),
        ({"exp": ...}, "TOKEN_CLAIMS"),
        ({"exp": None}, "TOKEN_CLAIMS"),
        ({"exp": str(NOW_S + 600)}, "TOKEN_CLAIMS"),
        ({"exp": True}, "TOKEN_CLAIMS"),
        ({"exp": 1e300}, "TOKEN_CLAIMS"),
        ({"exp": 2**60}, "TOKEN_CLAIMS"),
        ({"exp": NOW_S + 864_000}, "TOKEN_LIFE"),
        ({"iat": ...}, "TOKEN_CLAIMS"),
        ({"iat": NOW_S + 60}, "TOKEN_NOT_YET_VALID"),
        ({"nbf": NOW_S + 60}, "TOKEN_NOT_YET_VALID"),
        ({"nbf": "now"}, "TOKEN_CLAIMS"),
        ({"iss": ...}, "TOKEN_ISSUER"),
        ({"iss": "https://localhost:18401"}, "TOKEN_ISSUER"),
        ({"iss": ISSUER + "/"}, "TOKEN_ISSUER"),
        ({"iss": [ISSUER]}, "TOKEN_ISSUER"),
        ({"aud": ...}, "TOKEN_AUDIENCE"),
        ({"aud": "storefront"}, "TOKEN_AUDIENCE"),
        ({"aud": [AUDIENCE, "other"]}, "TOKEN_AUDIENCE"),
        ({"aud": []}, "TOKEN_AUDIENCE"),
        ({"sub": ...}, "TOKEN_CLAIMS"),
        ({"sub": ""}, "TOKEN_CLAIMS"),
        ({"sub": "x" * 257}, "TOKEN_CLAIMS"),
        ({"client_id": ...}, "TOKEN_CLAIMS"),
        ({"jti": ...}, "TOKEN_CLAIMS"),
        ({"scope": ["orders.read"]}, "TOKEN_CLAIMS"),
        ({"scope": " ".join(f"s{n}" for n in range(65))}, "TOKEN_CLAIMS"),
    ],
)
async def test_wrong_or_missing_claims(verifier: TokenVerifier, changes: dict[str, Any], reason: str) -> None:
    assert await refusal(verifier, token(**changes)) == reason


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"typ": ...}, "TOKEN_TYPE"),
        ({"typ": "JWT"}, "TOKEN_TYPE"),
        ({"typ": 7}, "TOKEN_TYPE"),
        ({"kid": ...}, "TOKEN_KEY"),
        ({"kid": ""}, "TOKEN_KEY"),
        ({"kid": "key-2"}, "TOKEN_KEY"),
        ({"kid": "k" * 129}, "TOKEN_KEY"),
        ({"kid": ["key-1"]}, "TOKEN_KEY"),
        ({"alg": ...}, "TOKEN_ALGORITHM"),
        ({"alg": "none"}, "TOKEN_ALGORITHM"),
        ({"alg": "es256"}, "TOKEN_ALGORITHM"),
        ({"alg": "ES384"}, "TOKEN_ALGORITHM"),
        ({"jwk": {"kty": "EC"}}, "TOKEN_HEADER"),
        ({"jku": "https://evil.example/jwks"}, "TOKEN_HEADER"),
        ({"x5u": "https://evil.example/x5u"}, "TOKEN_HEADER"),
        ({"x5c": ["AAAA"]}, "TOKEN_HEADER"),
        ({"crit": ["exp"]}, "TOKEN_HEADER"),
        ({"b64": False}, "TOKEN_HEADER"),
        ({"cty": "JWT"}, "TOKEN_HEADER"),
    ],
)
async def test_wrong_or_dangerous_headers(verifier: TokenVerifier, header: dict[str, Any], reason: str) -> None:
    assert await refusal(verifier, token(header)) == reason


async def test_alg_none_without_a_signature(verifier: TokenVerifier) -> None:
    text = jwt.encode(claims(), "", algorithm="none", headers={"kid": KID, "typ": "at+jwt"})
    assert await refusal(verifier, text) == "TOKEN_MALFORMED"


async def test_the_public_key_is_no_hmac_secret(verifier: TokenVerifier) -> None:
    pem = KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for alg, digest in (("HS256", hashlib.sha256), ("HS512", hashlib.sha512)):
        head = b64(json.dumps({"alg": alg, "kid": KID, "typ": "at+jwt"}).encode())
        signing_input = f"{head}.{b64(json.dumps(claims()).encode())}"
        signature = hmac.new(pem, signing_input.encode(), digest).digest()
        assert await refusal(verifier, f"{signing_input}.{b64(signature)}") in {"TOKEN_MALFORMED", "TOKEN_ALGORITHM"}


async def test_an_rsa_signature_is_refused(verifier: TokenVerifier) -> None:
    key = rsa.generate_private_key(65537, 2048)
    text = jwt.encode(claims(), key, algorithm="RS256", headers={"kid": KID, "typ": "at+jwt"})
    assert await refusal(verifier, text) == "TOKEN_MALFORMED"


async def test_a_signature_of_another_key_is_refused(verifier: TokenVerifier) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    text = raw_token(json.dumps({"alg": "ES256", "kid": KID, "typ": "at+jwt"}), json.dumps(claims()), other)
    assert await refusal(verifier, text) == "TOKEN_SIGNATURE"


async def test_a_changed_payload_is_refused(verifier: TokenVerifier) -> None:
    head, _, signature = token().split(".")
    forged = b64(json.dumps(claims(sub="root")).encode())
    assert await refusal(verifier, f"{head}.{forged}.{signature}") == "TOKEN_SIGNATURE"


@pytest.mark.parametrize("signature", ["A" * 86, "A" * 85 + "_"])
async def test_a_zero_signature_is_refused(verifier: TokenVerifier, signature: str) -> None:
    head, payload, _ = token().split(".")
    assert await refusal(verifier, f"{head}.{payload}.{signature}") == "TOKEN_SIGNATURE"


async def test_a_claim_that_appears_twice_is_refused(verifier: TokenVerifier) -> None:
    header = json.dumps({"alg": "ES256", "kid": KID, "typ": "at+jwt"})
    payload = json.dumps(claims())[:-1] + ', "sub": "root"}'
    assert await refusal(verifier, raw_token(header, payload)) == "TOKEN_SIGNATURE"


async def test_a_header_that_appears_twice_is_refused(verifier: TokenVerifier) -> None:
    header = '{"alg": "none", "kid": "key-1", "typ": "at+jwt", "alg": "ES256"}'
    assert await refusal(verifier, raw_token(header, json.dumps(claims()))) == "TOKEN_MALFORMED"


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "...", "a.b", "a.b.c", "a.b.c.d", "é" * 10, "a" * 100, "=.=.=", "e30.e30." + "A" * 86 + "="],
)
async def test_what_is_no_jwt_is_refused(verifier: TokenVerifier, text: str) -> None:
    assert await refusal(verifier, text) == "TOKEN_MALFORMED"


@pytest.mark.parametrize("part", ["[]", "7", '"x"', "{", "NaN", '{"a": Infinity}', "[" * 3000, "\udcff"])
async def test_a_header_that_is_no_object_is_refused(verifier: TokenVerifier, part: str) -> None:
    text = f"{b64(part.encode(errors='surrogateescape'))}.e30.{'A' * 86}"
    assert await refusal(verifier, text) == "TOKEN_MALFORMED"


async def test_a_huge_token_is_refused_before_it_is_read(verifier: TokenVerifier) -> None:
    assert await refusal(verifier, token(padding="x" * 8192)) == "TOKEN_TOO_LARGE"


async def test_a_verified_token_is_remembered_only_until_it_expires(verifier: TokenVerifier, clock: FakeClock) -> None:
    text = token()
    assert await verifier.verify(text) is await verifier.verify(text)
    clock.now_s += 600
    assert await refusal(verifier, text) == "TOKEN_EXPIRED"


async def test_a_remembered_token_is_forgotten_with_its_key(verifier: TokenVerifier, keys: FixedKeys) -> None:
    text = token()
    await verifier.verify(text)
    keys.keys.clear()
    assert await refusal(verifier, text) == "TOKEN_KEY"


async def test_the_memory_for_tokens_is_bounded(verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier_module, "CACHE_ENTRIES_MAX", 3)
    for number in range(10):
        await verifier.verify(token(jti=f"j{number}"))
    assert len(verifier._verified) == 3
