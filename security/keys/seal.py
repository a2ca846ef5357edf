"""What a keyring file is sealed under: a key in a file elsewhere, or a passphrase.

Either keeps a copy of the keyring alone (in a backup, on a lost disk) from being worth anything.
"""

from pathlib import Path
from typing import Final, Protocol

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mesh.files import read_key_file
from security.keys import key_file
from security.keys.aead import KEY_BYTES
from security.keys.errors import KeyringUnusable

SALT_BYTES: Final = 16
PASSPHRASE_BYTES_MIN: Final = 12
# RFC 9106, section 4, the second recommendation.
_ARGON2_PASSES: Final = 3
_ARGON2_LANES: Final = 4
_ARGON2_KIB: Final = 64 * 1024


class Seal(Protocol):
    # As the keyring file names it.
    kind: str

    def key(self, salt: bytes) -> bytes:
        """32 bytes, the same for the same salt. Raises KeyringUnusable, FailedPrecondition or OSError."""


class KeyFileSeal:
    """A random key in a file of its own, made by the first process that asks."""

    kind = "key-file"

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def beside(cls, keyring: Path) -> "KeyFileSeal":
        """In the folder `seals` beside the keyring's own."""
        return cls(keyring.parents[1] / "seals" / f"{keyring.parent.name}.key")

    def key(self, salt: bytes) -> bytes:
        secret = key_file.open_or_create(self._path)
        return HKDF(hashes.SHA256(), KEY_BYTES, salt=salt, info=b"isthmus keyring seal").derive(secret)


class PassphraseSeal:
    """A passphrase in a file that an operator, or the system's store of credentials, provides."""

    kind = "passphrase"

    def __init__(self, path: Path) -> None:
        self._path = path

    def key(self, salt: bytes) -> bytes:
        passphrase = read_key_file(self._path).strip()
        if len(passphrase) < PASSPHRASE_BYTES_MIN:
            raise KeyringUnusable(f"the passphrase in {self._path} has fewer than {PASSPHRASE_BYTES_MIN} bytes")
        return Argon2id(
            salt=salt, length=KEY_BYTES, iterations=_ARGON2_PASSES, lanes=_ARGON2_LANES, memory_cost=_ARGON2_KIB
        ).derive(passphrase)
