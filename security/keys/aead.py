"""AES-256-GCM (NIST SP 800-38D) with 96-bit nonces and 128-bit tags, and nothing else."""

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from security.keys.errors import EnvelopeMalformed, EnvelopeRejected

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16


class Aead:
    """One key. Nonces are random: a key must seal fewer than 2^32 values (SP 800-38D, section 8.3)."""

    __slots__ = ("_cipher",)

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
        self._cipher = AESGCM(key)

    def seal(self, plaintext: bytes, associated: bytes) -> tuple[bytes, bytes]:
        """Give (nonce, ciphertext and tag)."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce, self._cipher.encrypt(nonce, plaintext, associated)

    def open(self, nonce: bytes, sealed: bytes, associated: bytes) -> bytes:
        """Give the plaintext. Raises EnvelopeRejected when it does not fit, EnvelopeMalformed when cut short."""
        if len(nonce) != NONCE_BYTES:
            raise EnvelopeMalformed(f"its nonce has {len(nonce)} bytes")
        if len(sealed) < TAG_BYTES:
            raise EnvelopeMalformed("it is shorter than a tag")
        try:
            return self._cipher.decrypt(nonce, sealed, associated)
        except InvalidTag:
            # The cause would say no more, and a chained traceback only invites logging of locals.
            raise EnvelopeRejected from None
