"""Proofs of possession at the token endpoint (RFC 9449, sections 5 and 8): what is given is bound to their key."""

from collections.abc import Callable
from datetime import UTC, datetime

from authlib.oauth2 import OAuth2Error

from mesh.clock import Clock
from mesh.errors import Unauthenticated
from security.tokens.dpop import Nonces, read_proof

# Notes something that is good once; False if it was used before.
UseOnce = Callable[[str, datetime], bool]


class ProofError(OAuth2Error):  # type: ignore[misc]
    """A proof that is not good, or not yet: `nonce` is then the one to send it again with."""

    error = "invalid_dpop_proof"

    def __init__(self, description: str, nonce: str = "") -> None:
        super().__init__(description)
        self.nonce = nonce
        if nonce:
            self.error = "use_dpop_nonce"


class KeyProofs:
    """Blocks for PostgreSQL: call it from a thread."""

    def __init__(self, nonces: Nonces, use_once: UseOnce, clock: Clock) -> None:
        self._nonces = nonces
        self._use_once = use_once
        self._clock = clock

    def check(self, text: str, url: str) -> str:
        """The thumbprint of the key that a POST to `url` has proven. Raises ProofError."""
        try:
            proof = read_proof(text, "POST", url, self._clock.now_us() // 1_000_000)
            self._nonces.check(proof.nonce)
        except Unauthenticated as error:
            raise ProofError(error.message, error.metadata.get("nonce", "")) from error
        if not self._use_once(f"dpop\0{proof.digest.hex()}", datetime.fromtimestamp(proof.until, UTC)):
            raise ProofError("the DPoP proof was used before")
        return proof.thumbprint
