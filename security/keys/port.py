"""The port to whatever holds the key-encryption keys: a local keyring, or a KMS by the same calls."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class KekRef:
    """One version of one key-encryption key (KEK)."""

    id: str
    version: int

    def __str__(self) -> str:
        return f"{self.id} version {self.version}"


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A data key as it may be stored: only the KEK that `kek` names can unwrap it."""

    # 16 random bytes; envelopes refer to the data key by it.
    key_id: bytes
    kek: KekRef
    # Opaque: each KMS has a form of its own.
    ciphertext: bytes


class Kms(Protocol):
    """Wraps and unwraps data keys of 32 bytes. KEKs never leave it."""

    async def wrap(self, key: bytes, context: bytes) -> tuple[KekRef, bytes]:
        """Encrypt `key` under the newest KEK, bound to `context`. Gives the KEK and the ciphertext."""

    async def unwrap(self, kek: KekRef, ciphertext: bytes, context: bytes) -> bytes:
        """Decrypt what `wrap` gave. Raises KekUnknown, or EnvelopeRejected when anything does not fit."""
