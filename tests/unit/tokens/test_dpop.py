"""A proof of possession holds for one key, one request, one token and one moment."""

import base64
import hashlib
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.errors import Unauthenticated
from security.tokens.dpop import NONCE_WINDOW_S, PROOF_LIFE_S, Nonces, Proof, read_proof
from security.tokens.jwk import public_jwk
from tests.unit.tokens.conftest import NOW_S, FakeClock

KEY = ec.generate_private_key(ec.SECP256R1())
URL = "https://shop.example/v1/orders"
TOKEN = "a.b.c"
ATH = base64.urlsafe_b64encode(hashlib.sha256(TOKEN.encode()).digest()).rstrip(b"=").decode()


def point(key: ec.EllipticCurvePrivateKey = KEY) -> dict[str, str]:
    return {name: value for name, value in public_jwk(key.public_key()).items() if name in {"kty", "crv", "x", "y"}}


def proof(header: dict[str, Any] | None = None, key: ec.EllipticCurvePrivateKey = KEY, **changes: Any) -> str:
    said = {"jti": "p1", "htm": "POST", "htu": URL, "iat": NOW_S, "ath": ATH, "nonce": "n"} | changes
    full = {"typ": "dpop+jwt", "jwk": point(key)} | (header or {})
    wanted = {name: value for name, value in said.items() if value is not ...}
    return jwt.encode(wanted, key, "ES256", {name: value for name, value in full.items() if value is not ...})


def read(text: str, verb: str = "POST", url: str = URL, token: str | None = TOKEN) -> Proof:
    return read_proof(text, verb, url, NOW_S, token)


def test_a_good_proof_names_its_key() -> None:
    found = read(proof())
    assert found.thumbprint == public_jwk(KEY.public_key())["kid"]
    assert found.nonce == "n"
    assert found.until > NOW_S + PROOF_LIFE_S
    assert read(proof(iat=NOW_S - 1)).digest == found.digest
    assert read(proof(jti="p2")).digest != found.digest
    assert read(proof(key=ec.generate_private_key(ec.SECP256R1()))).digest != found.digest


@pytest.mark.parametrize(
    "text",
    [
        proof(htm="GET"),
        proof(htu=URL + "/"),
        proof(htu="https://evil.example/v1/orders"),
        proof(htu=...),
        proof(ath=...),
        proof(ath=ATH[:-1] + "A"),
        proof(iat=NOW_S - PROOF_LIFE_S - 1),
        proof(iat=NOW_S + 30),
        proof(iat=str(NOW_S)),
        proof(iat=...),
        proof(jti=...),
        proof(jti=""),
        proof(jti="x" * 200),
        proof(nonce=7),
        proof({"typ": "JWT"}),
        proof({"jwk": ...}),
        proof({"jwk": point() | {"d": "AAAA"}}),
        proof({"jwk": point() | {"kid": "1"}}),
        proof({"jwk": point(ec.generate_private_key(ec.SECP256R1()))}),
        proof({"jwk": {**point(), "crv": "P-384"}}),
        proof({"jku": "https://evil.example"}),
        proof({"crit": ["exp"]}),
        "",
        "a.b.c",
        proof() + "A",
        "x" * 5000,
    ],
)
def test_a_proof_for_anything_else_is_none(text: str) -> None:
    with pytest.raises(Unauthenticated, match="PROOF_INVALID"):
        read(text)


def test_alg_none_and_hmac_with_the_public_key_are_no_proofs() -> None:
    head, payload, signature = proof().split(".")
    for algorithm in ("none", "HS256", "ES384", "es256"):
        header = {"typ": "dpop+jwt", "alg": algorithm, "jwk": point()}
        forged = base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()
        with pytest.raises(Unauthenticated, match="PROOF_INVALID"):
            read(f"{forged}.{payload}.{signature}")
    assert head


def test_a_proof_with_a_token_is_none_for_a_request_without_one() -> None:
    with pytest.raises(Unauthenticated, match="PROOF_INVALID"):
        read(proof(), token=None)


def test_a_nonce_is_good_for_a_while_wherever_the_key_is_known(clock: FakeClock) -> None:
    nonce = Nonces(b"key", clock).current()
    other = Nonces(b"key", clock)
    other.check(nonce)
    clock.now_s += NONCE_WINDOW_S
    other.check(nonce)
    clock.now_s += NONCE_WINDOW_S
    with pytest.raises(Unauthenticated, match="PROOF_NONCE") as refused:
        other.check(nonce)
    other.check(refused.value.metadata["nonce"])
    for wrong in ("", "x", Nonces(b"another", clock).current()):
        with pytest.raises(Unauthenticated, match="PROOF_NONCE"):
            other.check(wrong)
