"""The keys that sign click tokens: one folder, shared by all nodes of the zone.

`<id>.key` files of 32 random bytes, 0600; `current` names the id that signs. To rotate, write the next key, wait until
every node has read it (they look each few seconds), then replace `current`; remove the old key when its last token has
expired.
"""

import os
import secrets
import time
from pathlib import Path

from public_edge.clicks.domain import KeyRing

KEY_BYTES = 32
KEYS_MAX = 8
_WAIT_S = 5.0


class ClickKeysError(Exception):
    """The folder does not hold a usable ring. Says what to do."""


def load_or_create(directory: Path) -> KeyRing:
    """The ring of the zone: the first node to come makes its first key, all others read it. Raises ClickKeysError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    _create_whole(directory / "1.key", secrets.token_bytes(KEY_BYTES))
    _create_whole(directory / "current", b"1")
    return load(directory)


def load(directory: Path) -> KeyRing:
    """Raises ClickKeysError."""
    keys: dict[int, bytes] = {}
    for path in sorted(directory.glob("*.key"))[:KEYS_MAX]:
        if path.stat().st_mode & 0o077:
            raise ClickKeysError(f"{path} may be read by others: chmod 600 it, or better replace the key")
        key = path.read_bytes()
        if not path.stem.isdecimal() or not 0 <= int(path.stem) <= 255 or len(key) != KEY_BYTES:
            raise ClickKeysError(f"{path} is no click key: {KEY_BYTES} bytes in a file named 0.key to 255.key")
        keys[int(path.stem)] = key
    text = (directory / "current").read_text("ascii").strip()
    if not text.isdecimal() or int(text) not in keys:
        raise ClickKeysError(f"{directory / 'current'} names no key that is there")
    return KeyRing(int(text), keys)


def rotate(directory: Path, settle_s: float = _WAIT_S) -> KeyRing:
    """Add a key, give every node `settle_s` seconds to read it, sign with it from then on, keep the one before."""
    ring = load(directory)
    following = (ring.current + 1) % 256
    (directory / f"{following}.key").unlink(missing_ok=True)
    _create_whole(directory / f"{following}.key", secrets.token_bytes(KEY_BYTES))
    time.sleep(settle_s)
    fresh = directory / "current.new"
    fresh.write_text(str(following), "ascii")
    fresh.replace(directory / "current")
    for key_id in ring.keys.keys() - {ring.current, following}:
        (directory / f"{key_id}.key").unlink(missing_ok=True)
    return load(directory)


def _create_whole(path: Path, content: bytes) -> None:
    """Make the file with all its content in one step, unless somebody has made it already."""
    if path.exists():
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
