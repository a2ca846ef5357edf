"""AES-256-GCM (NIST SP 800-38D) with 96-bit nonces and 128-bit tags, and nothing else."""

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from security.keys.errors import EnvelopeMalformed, EnvelopeRejected, KeyExhausted

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
SEALED_MAX: Final = 2**32


class Aead:
    """One key. Nonces are random, so that neither a fork nor a restored snapshot repeats one; therefore a key seals at
    most 2^32 values (SP 800-38D, section 8.3). Counted by process: many times more than one lives to seal."""

    __slots__ = ("decrypt", "encrypt", "sealed")

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
        cipher = AESGCM(key)
        # The bare functions of nonce, text and associated data: `encrypt` only with what `nonces` gave.
        self.encrypt, self.decrypt = cipher.encrypt, cipher.decrypt
        self.sealed = 0

    def nonces(self, count: int) -> bytes:
        """Fresh nonces for `count` values, one behind another, and counted. Raises KeyExhausted."""
        if self.sealed + count > SEALED_MAX:
            raise KeyExhausted
        self.sealed += count
        return os.urandom(NONCE_BYTES * count)

    def seal(self, plaintext: bytes, associated: bytes) -> tuple[bytes, bytes]:
        """Give (nonce, ciphertext and tag). Raises KeyExhausted."""
        nonce = self.nonces(1)
        return nonce, self.encrypt(nonce, plaintext, associated)

    def open(self, nonce: bytes, sealed: bytes, associated: bytes) -> bytes:
        """Give the plaintext. Raises EnvelopeRejected when it does not fit, EnvelopeMalformed when cut short."""
        if len(nonce) != NONCE_BYTES:
            raise EnvelopeMalformed(f"its nonce has {len(nonce)} bytes")
        try:
            return self.decrypt(nonce, sealed, associated)
        except InvalidTag:
            if len(sealed) < TAG_BYTES:
                raise EnvelopeMalformed("it is shorter than a tag") from None
            # The cause would say no more, and a chained traceback only invites logging of locals.
            raise EnvelopeRejected from None
