"""A keyring's copy that may lie beside the database's backups, wrapped under a recovery key that lies elsewhere.

    {"format": 1, "id": "local-5f0c1d2e", "index_key": "<base64>", "keks": [{"version": 1, "wrapped": "<base64>"}]}

Each key is wrapped by itself with AES key wrap with padding (RFC 5649; KWP of NIST SP 800-38F): it needs no nonce, so
that a recovery key may lie in a safe for years and nothing has to count what it wrapped. Key wrap has no room for
associated data; what a key is stands before it and is wrapped with it, so that none passes for another.
"""

import base64
import json
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.keywrap import (
    InvalidUnwrap,
    aes_key_unwrap_with_padding,
    aes_key_wrap_with_padding,
)

from mesh.errors import AlreadyExists
from mesh.files import DIRECTORY_MODE, PRIVATE_MODE, read_file, write_file
from security.keys.aead import KEY_BYTES
from security.keys.envelope import encode_parts
from security.keys.errors import EnvelopeMalformed, EnvelopeRejected, KeyringUnusable
from security.keys.keyring import read_keys, write_keys
from security.keys.seal import Seal
from security.keys.wraps import locked

FORMAT: Final = 1
# The integrity check value, and at least one block of key.
_WRAPPED_BYTES_MIN: Final = 16
_BLOCK_BYTES: Final = 8
_INDEX: Final = "index"


def wrap(recovery_key: bytes, key: bytes) -> bytes:
    """`key`, of any length, under a recovery key of 32 bytes."""
    return aes_key_wrap_with_padding(_whole(recovery_key), key)


def unwrap(recovery_key: bytes, wrapped: bytes) -> bytes:
    """Raises EnvelopeMalformed for what cannot be a wrapped key, EnvelopeRejected for what another key wrapped."""
    if len(wrapped) < _WRAPPED_BYTES_MIN or len(wrapped) % _BLOCK_BYTES:
        raise EnvelopeMalformed(f"a wrapped key has no {len(wrapped)} bytes")
    try:
        return aes_key_unwrap_with_padding(_whole(recovery_key), wrapped)
    except InvalidUnwrap:
        raise EnvelopeRejected from None


def back_up(keyring: Path, seal: Seal, recovery_key: bytes, copy: Path) -> list[int]:
    """Write the copy. Gives the versions that are in it. Raises KeyringUnusable or OSError."""
    with locked(keyring):
        id_, keks, index_key = read_keys(keyring, seal)
    document = {
        "format": FORMAT,
        "id": id_,
        "index_key": _text(wrap(recovery_key, _named(id_, _INDEX) + index_key)),
        "keks": [
            {"version": version, "wrapped": _text(wrap(recovery_key, _named(id_, str(version)) + key))}
            for version, key in sorted(keks.items())
        ],
    }
    write_file(copy, json.dumps(document, indent=1).encode() + b"\n", PRIVATE_MODE)
    return sorted(keks)


def restore(copy: Path, recovery_key: bytes, keyring: Path, seal: Seal) -> list[int]:
    """Make the keyring again of its copy, sealed as this machine seals. Gives the versions that it holds.

    Raises AlreadyExists where a keyring lies, KeyringUnusable for a damaged copy or another recovery key, OSError.
    """
    try:
        document = json.loads(read_file(copy))
        if document["format"] != FORMAT:
            raise KeyringUnusable(f"{copy} has format {document['format']!r}")
        id_ = str(document["id"])
        index_key = _unnamed(recovery_key, document["index_key"], _named(id_, _INDEX))
        keks = {
            int(each["version"]): _unnamed(recovery_key, each["wrapped"], _named(id_, str(each["version"])))
            for each in document["keks"]
        }
    except (EnvelopeMalformed, EnvelopeRejected):
        raise KeyringUnusable(f"{copy} is damaged, or wrapped under another recovery key") from None
    except (ValueError, TypeError, KeyError):
        raise KeyringUnusable(f"{copy} is no copy of a keyring") from None
    if not keks or min(keks) < 1:
        raise KeyringUnusable(f"{copy} holds no key")
    keyring.parent.mkdir(parents=True, exist_ok=True, mode=DIRECTORY_MODE)
    with locked(keyring):
        if keyring.exists():
            raise AlreadyExists(
                "KEYRING_THERE", f"{keyring} is a keyring", remedy="Move it away first, if it is not the one you need."
            )
        write_keys(keyring, id_, keks, index_key, seal)
    return sorted(keks)


def _named(id_: str, what: str) -> bytes:
    return encode_parts("keyring", id_, what)


def _unnamed(recovery_key: bytes, text: str, name: bytes) -> bytes:
    opened = unwrap(recovery_key, base64.b64decode(text, validate=True))
    if opened[: len(name)] != name or len(opened) != len(name) + KEY_BYTES:
        raise EnvelopeRejected
    return opened[len(name) :]


def _text(wrapped: bytes) -> str:
    return base64.b64encode(wrapped).decode()


def _whole(key: bytes) -> bytes:
    if len(key) != KEY_BYTES:
        raise ValueError(f"a recovery key has {KEY_BYTES} bytes, not {len(key)}")
    return key
