"""Equality over encrypted values: a keyed hash beside the ciphertext, useless without the key (after CipherSweet)."""

import hmac
from typing import Final

INDEX_BYTES: Final = 32


class BlindIndex:
    """HMAC-SHA256 (RFC 2104) of a value under the index's own key. Normalise first: equal must mean the same bytes."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of(self, value: str) -> bytes:
        """32 bytes, the same for the same value and key."""
        return hmac.digest(self._key, value.encode(), "sha256")
