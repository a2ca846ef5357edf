"""How logins lie in the database: found by a keyed hash, shown from under a seal, and never in clear.

A login is an e-mail address as often as not. Its hash without a key could be searched for in an afternoon.
"""

from typing import Final

from security.keys.aead import NONCE_BYTES, Aead
from security.keys.blind_index import BlindIndex
from security.keys.port import Kms

_INDEX: Final = "oauth-logins"
_SEAL: Final = "oauth-logins-sealed"


class Logins:
    """Two keys that all replicas share."""

    def __init__(self, index_key: bytes, seal_key: bytes) -> None:
        self._index = BlindIndex(index_key)
        self._aead = Aead(seal_key)

    @classmethod
    async def under(cls, keyring: Kms) -> "Logins":
        return cls(await keyring.index_key(_INDEX), await keyring.index_key(_SEAL))

    def index(self, login: str) -> bytes:
        """What a folded login is found by."""
        return self._index.of(login)

    def seal(self, login: str, member_id: str) -> bytes:
        """It opens in this member's row alone."""
        nonce, sealed = self._aead.seal(login.encode(), member_id.encode())
        return nonce + sealed

    def open(self, sealed: bytes, member_id: str) -> str:
        """Raises EnvelopeRejected for what is another member's, or was altered."""
        return self._aead.open(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], member_id.encode()).decode()
