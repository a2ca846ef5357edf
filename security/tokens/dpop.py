"""Proofs that a caller holds the key its token is bound to (RFC 9449): one for each request, good once."""

import base64
import hashlib
import hmac
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec

from mesh.clock import Clock
from mesh.errors import Unauthenticated
from security.tokens.jwk import thumbprint
from security.tokens.keys import public_key
from security.tokens.signature import COMPACT, signed_payload
from security.tokens.strict import decoded, strict_json

TYPE: Final = "dpop+jwt"
PROOF_BYTES_MAX: Final = 4096
ID_LENGTH_MAX: Final = 128
# How old a proof may be, and how far the clocks may differ.
PROOF_LIFE_S: Final = 60
CLOCK_SKEW_S: Final = 5
# A nonce is good for one to two of these.
NONCE_WINDOW_S: Final = 120
# Keys that are remembered; a proof of another one takes a little longer.
KEYS_MAX: Final = 4096
_HEADER: Final = frozenset({"alg", "typ", "jwk"})
_POINT: Final = frozenset({"kty", "crv", "x", "y"})


@dataclass(frozen=True, slots=True)
class Proof:
    """A proof whose signature and statements hold. Whether it was used before is for a store to tell."""

    # RFC 7638 thumbprint of the key, as a token's cnf.jkt has it.
    thumbprint: str
    # Names the proof among all proofs of all keys.
    digest: bytes
    # After that it is refused for its age. Seconds since the epoch.
    until: int
    nonce: str


def read_proof(text: str, verb: str, url: str, now_s: int, token: str | None = None) -> Proof:
    """Check a proof for one request: `url` without query, and with the access token where there is one.

    Unauthenticated (PROOF_INVALID) for anything that is not exactly right.
    """
    if len(text) > PROOF_BYTES_MAX or not COMPACT.fullmatch(text):
        raise _invalid("it is no JWT signed with ES256")
    try:
        key, name = _key(text.partition(".")[0])
        said = strict_json(signed_payload(text, key))
    except (ValueError, RecursionError) as error:
        raise _invalid("its signature does not verify") from error
    made_s, proof_id, nonce = said.get("iat"), said.get("jti"), said.get("nonce", "")
    if type(made_s) is not int or not now_s - PROOF_LIFE_S <= made_s <= now_s + CLOCK_SKEW_S:
        raise _invalid("it was not made just now")
    if not isinstance(proof_id, str) or not 0 < len(proof_id) <= ID_LENGTH_MAX or not isinstance(nonce, str):
        raise _invalid("it has no id of its own")
    if (said.get("htm"), said.get("htu")) != (verb, url):
        raise _invalid("it is for another request")
    if said.get("ath") != (None if token is None else _hash(token)):
        raise _invalid("it is for another token")
    digest = hashlib.sha256(f"{name}\0{proof_id}".encode()).digest()
    return Proof(name, digest, made_s + PROOF_LIFE_S + CLOCK_SKEW_S, nonce)


# The header of a key's proofs is the same in all of them.
@lru_cache(KEYS_MAX)
def _key(header: str) -> tuple[ec.EllipticCurvePublicKey, str]:
    """The key that a proof's header brings, and its thumbprint. Raises as `read_proof` says, and ValueError."""
    said = strict_json(decoded(header))
    jwk = said.get("jwk")
    if said.keys() != _HEADER or (said["typ"], said["alg"]) != (TYPE, "ES256"):
        raise _invalid("its header holds typ, alg and jwk, and nothing else")
    if not isinstance(jwk, dict) or jwk.keys() != _POINT or (jwk["kty"], jwk["crv"]) != ("EC", "P-256"):
        raise _invalid("its key is a public P-256 key and nothing else")
    return public_key(jwk), thumbprint(jwk)


def _hash(token: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).rstrip(b"=").decode()


def _invalid(rule: str) -> Unauthenticated:
    return Unauthenticated("PROOF_INVALID", f"the DPoP proof is not good: {rule}")


class Nonces:
    """Nonces that need no memory: whoever shares the key accepts them, for two to four minutes."""

    def __init__(self, key: bytes, clock: Clock) -> None:
        self._key = key
        self._clock = clock
        # Of the last window that was asked about: its number, its nonce and that of the one before.
        self._good = (-1, "", "")

    def current(self) -> str:
        """The nonce to be used next."""
        return self._now()[1]

    def check(self, nonce: str) -> None:
        """Unauthenticated (PROOF_NONCE), with the nonce to use instead, for any that is not of now."""
        _, current, before = self._now()
        if not any(hmac.compare_digest(nonce.encode(), each.encode()) for each in (current, before)):
            raise Unauthenticated(
                "PROOF_NONCE",
                "the DPoP proof needs the nonce of now",
                remedy="Send it again with the nonce in the answer.",
                metadata={"nonce": current},
            )

    def _now(self) -> tuple[int, str, str]:
        window = int(self._clock.now_us() // 1_000_000) // NONCE_WINDOW_S
        if self._good[0] != window:
            self._good = (window, self._of(window), self._of(window - 1))
        return self._good

    def _of(self, window: int) -> str:
        mark: Any = hmac.digest(self._key, window.to_bytes(8, "big"), hashlib.sha256)
        return base64.urlsafe_b64encode(mark[:18]).decode()
