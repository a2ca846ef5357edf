"""The port to whatever holds the key-encryption keys: a local keyring, HashiCorp Vault, a hardware module, a cloud."""

from collections.abc import Collection, Sequence
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
    """Wraps and unwraps data keys of 32 bytes under versions of one KEK, which never leave it.

    All raise KmsAway when it cannot be reached, and KmsRefused when it does not let us.
    """

    async def held(self) -> Sequence[KekRef]:
        """Every version that still unwraps, the newest last."""

    async def wrap(self, key: bytes, context: bytes) -> tuple[KekRef, bytes]:
        """Encrypt `key` under the newest KEK, bound to `context`. Gives the KEK and the ciphertext. KeyExhausted."""

    async def unwrap(self, kek: KekRef, ciphertext: bytes, context: bytes) -> bytes:
        """Decrypt what `wrap` gave. Raises KekUnknown, or EnvelopeRejected when anything does not fit."""

    async def rotate(self, newest_version: int) -> KekRef:
        """Add a version, unless there is one newer than `newest_version` already. Gives the newest."""

    async def retire(self, versions: Collection[int], settled_s: float) -> Sequence[int]:
        """Destroy versions, never the newest. Gives those that were destroyed.

        Raises KeyringBusy when one was added less than `settled_s` ago: somebody may be wrapping under an older one.
        """

    async def index_key(self, name: str) -> bytes:
        """The key of one blind index, 32 bytes: of a secret of its own, unrelated to every KEK and never rotated."""

    async def close(self) -> None:
        """Let go of connections and sessions."""
