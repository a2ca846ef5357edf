"""How many data keys each key-encryption key has wrapped, kept over restarts: {"local-5f0c1d2e version 1": 8192}.

A process reserves a block in the file before it wraps the first key of it, so that a crash counts too much and never
too little. Nonces are random, so neither a fork nor a restored snapshot makes one come twice; what a restored snapshot
forgets is the count of what was wrapped since, and the limit leaves half of what random nonces allow for that.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mesh.files import DIRECTORY_MODE, PRIVATE_MODE, read_file, write_file
from security.keys.aead import SEALED_MAX
from security.keys.errors import KeyExhausted, KeyringUnusable, KmsAway
from security.keys.port import KekRef

WRAPS_MAX: Final = SEALED_MAX // 2
BLOCK: Final = 4096


class WrapLedger:
    """Shared by the processes of one machine through its file. Not thread-safe."""

    def __init__(self, path: Path, wraps_max: int = WRAPS_MAX) -> None:
        self._path = path
        self._wraps_max = wraps_max
        self._left: dict[KekRef, int] = {}
        self._pid = os.getpid()

    def spend(self, kek: KekRef) -> None:
        """Count one wrap. Raises KeyExhausted, KeyringUnusable or KmsAway; nothing may be wrapped then."""
        if os.getpid() != self._pid:
            # What is left of a block belongs to the process that reserved it, and not to its children as well.
            self._left, self._pid = {}, os.getpid()
        try:
            left = self._left.get(kek, 0) or self._reserve(kek)
        except OSError as error:
            raise KmsAway(f"how often keys were used cannot be written: {error.strerror}") from None
        self._left[kek] = left - 1

    def reserved(self, kek: KekRef) -> int:
        """No fewer than were wrapped."""
        return self._read().get(str(kek), 0)

    def _reserve(self, kek: KekRef) -> int:
        with locked(self._path):
            counts = self._read()
            before = counts.get(str(kek), 0)
            block = min(BLOCK, self._wraps_max - before)
            if block <= 0:
                raise KeyExhausted
            write_file(self._path, json.dumps(counts | {str(kek): before + block}).encode() + b"\n", PRIVATE_MODE)
        return block

    def _read(self) -> dict[str, int]:
        if not self._path.exists():
            return {}
        try:
            counts = json.loads(read_file(self._path))
        except ValueError:
            counts = None
        if not isinstance(counts, dict) or not all(type(count) is int and count >= 0 for count in counts.values()):
            raise KeyringUnusable(f"{self._path} is damaged")
        return counts


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock beside `path`, so that of several processes one at a time reads it and writes it again."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=DIRECTORY_MODE)
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, PRIVATE_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
