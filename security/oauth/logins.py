"""A login is kept nowhere but as a keyed hash, by which it is found.

A login is an e-mail address as often as not. Its hash without a key could be searched for in an afternoon; sealed under
a key of the server's it would open in every old copy of the tables for whoever has that key. So only whoever typed it
sees it again: their session has it under a key made of what the cookie holds, of which the server keeps a digest.
"""

import hashlib
from typing import Final

from security.keys.aead import NONCE_BYTES, Aead
from security.keys.blind_index import BlindIndex
from security.keys.port import Kms

_INDEX: Final = "oauth-logins"


class Logins:
    """One key that all replicas share."""

    def __init__(self, index_key: bytes) -> None:
        self._index = BlindIndex(index_key)

    @classmethod
    async def under(cls, keyring: Kms) -> "Logins":
        return cls(await keyring.index_key(_INDEX))

    def index(self, login: str) -> bytes:
        """What a folded login is found by."""
        return self._index.of(login)


def seal(token: str, login: str) -> bytes:
    """A login that only whoever holds the session's token can open."""
    nonce, sealed = Aead(_key(token)).seal(login.encode(), b"")
    return nonce + sealed


def unseal(token: str, sealed: bytes) -> str:
    """Raises EnvelopeRejected for another session's, or what was altered."""
    return Aead(_key(token)).open(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], b"").decode()


def _key(token: str) -> bytes:
    # The token is 32 random bytes, and its plain SHA-256 lies beside what is sealed: another domain, another key.
    return hashlib.sha256(b"isthmus session login\0" + token.encode()).digest()
