"""Files that are written whole or not at all, and keys that are read only when nobody else can read them."""

import os
import stat
from pathlib import Path

from mesh.errors import FailedPrecondition

PRIVATE_MODE = 0o600
PUBLIC_MODE = 0o644
DIRECTORY_MODE = 0o700
FILE_BYTES_MAX = 256 * 1024


def sync_directory(directory: Path) -> None:
    """Make renames and new names in `directory` survive a loss of power."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, data: bytes, mode: int, *, durable: bool = True) -> None:
    """Write `data` with exactly `mode` and put it in place in one step; a reader sees the old file or the new one.

    durable: on the disk on return; else a loss of power may take it. Raises OSError; the old file stays then.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            if durable:
                os.fsync(descriptor)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    if durable:
        sync_directory(path.parent)


def read_file(path: Path) -> bytes:
    """Read a small file; more than FILE_BYTES_MAX is refused."""
    with path.open("rb") as file:
        data = file.read(FILE_BYTES_MAX + 1)
    if len(data) > FILE_BYTES_MAX:
        raise FailedPrecondition("FILE_TOO_LARGE", f"{path} is larger than {FILE_BYTES_MAX} bytes")
    return data


def read_key_file(path: Path) -> bytes:
    """Read a private key, but only one that is a regular file closed to group and others."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) or mode & 0o077:
        raise FailedPrecondition(
            "KEY_FILE_EXPOSED",
            f"{path} has mode {stat.S_IMODE(mode):04o}: others may have read this key",
            remedy=f"Treat the key as lost: remove {path} and its certificate, then start again.",
        )
    return read_file(path)
