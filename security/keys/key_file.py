"""One key in a file of its own: 32 random bytes in base64, closed to group and others."""

import base64
import os
from pathlib import Path

from mesh.files import DIRECTORY_MODE, PRIVATE_MODE, read_key_file, write_file
from security.keys.aead import KEY_BYTES
from security.keys.errors import KeyringUnusable
from security.keys.wraps import locked


def open_or_create(path: Path) -> bytes:
    """The key; the first process to ask makes it. Raises as `read`."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=DIRECTORY_MODE)
    with locked(path):
        if not path.exists():
            write_file(path, base64.b64encode(os.urandom(KEY_BYTES)) + b"\n", PRIVATE_MODE)
    return read(path)


def read(path: Path) -> bytes:
    """Raises KeyringUnusable for what is no key, FailedPrecondition when others may read it, or OSError."""
    try:
        secret = base64.b64decode(read_key_file(path).strip(), validate=True)
    except ValueError:
        secret = b""
    if len(secret) != KEY_BYTES:
        raise KeyringUnusable(f"{path} holds no key of {KEY_BYTES} bytes")
    return secret
