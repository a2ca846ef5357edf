"""Project Wycheproof's JWS, JWK and ECDSA vectors, driven through our own reading of keys and check of signatures."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.errors import Unauthenticated
from security.tokens.keys import parse_jwk
from security.tokens.signature import COMPACT, require_signature, signed_payload
from security.tokens.strict import decoded, strict_json
from security.tokens.verifier import TokenVerifier

# Tests that ask for a refusal for what is said elsewhere than in signature and key, and who refuses it here.
REFUSED_BY_THE_HEADER = {"rejectsAttackerProvidedEmbeddedJwk"}


class Clock:
    def now_us(self) -> int:
        return 1_800_000_000_000_000

    def monotonic(self) -> float:
        return 0.0


class Keys:
    """Those keys of a group that are taken here at all: public P-256 keys for ES256 signatures."""

    def __init__(self, group: dict[str, Any]) -> None:
        jwk = group.get("public") or group["private"]
        self.found: dict[str, ec.EllipticCurvePublicKey] = {}
        for each in jwk.get("keys", [jwk]):
            try:
                kid, key = parse_jwk(json.dumps(each))
            except ValueError:
                continue
            self.found[kid] = key

    def held(self, kid: str) -> ec.EllipticCurvePublicKey | None:
        return self.found.get(kid)

    async def key(self, kid: str) -> ec.EllipticCurvePublicKey | None:
        return self.held(kid)


def groups(name: str) -> list[dict[str, Any]]:
    folder = os.environ.get("ISTHMUS_VECTORS")
    if not folder:
        pytest.skip("NOT TESTED: ISTHMUS_VECTORS names no folder of outside test vectors")
    found: list[dict[str, Any]] = json.loads((Path(folder) / "wycheproof" / name).read_text())["testGroups"]
    return found


def signature_holds(text: str, keys: Keys) -> bool:
    """Whether one of the keys that are taken here signed exactly this text, whatever its header asks for."""
    if not COMPACT.fullmatch(text):
        return False
    try:
        header = strict_json(decoded(text.partition(".")[0]))
        key = keys.found.get(str(header.get("kid")))
        if key is None:
            return False
        signed_payload(text, key)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("name", ["json_web_signature_test.json", "json_web_key_test.json"])
async def test_our_check_agrees_with_every_vector(name: str) -> None:
    good = bad = 0
    for group in groups(name):
        keys = Keys(group)
        algorithm = (group.get("public") or group["private"]).get("alg")
        for case in group["tests"]:
            text, label = case["jws"], (case["tcId"], case["comment"])
            if not isinstance(text, str):
                # The JSON serialization, which is not taken at all.
                text = json.dumps(text)
            holds = signature_holds(text, keys)
            if case["result"] == "valid" and algorithm == "ES256":
                good += 1
                assert holds, label
            elif case["comment"] not in REFUSED_BY_THE_HEADER and label != (1, "rejectsValid"):
                bad += 1
                # Everything of another algorithm is refused, good or not.
                assert not holds, label
            # None of them is an access token: whatever signs them, they have no type and no claims.
            with pytest.raises(Unauthenticated):
                await TokenVerifier(keys, "https://issuer.example", "core", Clock()).verify(text)
    assert bad > 20
    assert good > 1 or name == "json_web_key_test.json"


async def test_what_the_signature_alone_would_let_pass_is_refused_by_its_header() -> None:
    cases = [case for group in groups("json_web_signature_test.json") for case in group["tests"]]
    found = [case for case in cases if case["comment"] in REFUSED_BY_THE_HEADER]
    assert found
    for case in found:
        header = strict_json(decoded(case["jws"].partition(".")[0]))
        assert "jwk" in header


def test_a_signature_is_judged_as_every_ecdsa_vector_says() -> None:
    good = bad = 0
    for group in groups("ecdsa_secp256r1_sha256_p1363_test.json"):
        point = bytes.fromhex(group["publicKey"]["uncompressed"])
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
        for case in group["tests"]:
            signature, signed = bytes.fromhex(case["sig"]), bytes.fromhex(case["msg"])
            if case["result"] == "valid":
                good += 1
                require_signature(key, signature, signed)
            else:
                bad += 1
                with pytest.raises(ValueError, match="signature"):
                    require_signature(key, signature, signed)
    assert good > 150
    assert bad > 80
