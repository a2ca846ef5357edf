"""The local keyring: key-encryption keys and the blind indexes' secret in one file, 0600, for a mesh without a KMS.

    {"format": 1, "seal": "none", "id": "local-5f0c1d2e", "index_key": "<base64>",
     "keks": [{"version": 1, "key": "<base64>"}]}

`seal` says how the keys in the file are themselves protected; "none" leaves that to the file system.
"""

import base64
import fcntl
import json
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from security.identity.files import DIRECTORY_MODE, KEY_MODE, read_key_file, write_file
from security.keys.aead import KEY_BYTES, NONCE_BYTES, Aead
from security.keys.errors import EnvelopeMalformed, KekUnknown, KeyringBusy, KeyringUnusable
from security.keys.port import KekRef

FORMAT: Final = 1
UNSEALED: Final = "none"


class Keyring:
    """A `Kms` of this machine. Wraps under its newest KEK and unwraps under any that it holds.

    A file that another process changed is read again before it matters, so that a rotation needs no restart.
    """

    def __init__(self, id_: str, keks: Mapping[int, bytes], index_key: bytes, path: Path | None = None) -> None:
        self.id = id_
        self._path = path
        self._stamp = _stamp(path) if path else None
        self._index_key = index_key
        self._take(keks)

    @classmethod
    def open(cls, path: Path) -> "Keyring":
        """Read the keyring; the first process to ask makes it. Raises KeyringUnusable, or when others may read it."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=DIRECTORY_MODE)
        with _locked(path):
            if not path.exists():
                write_keys(path, f"local-{os.urandom(4).hex()}", {1: os.urandom(KEY_BYTES)}, os.urandom(KEY_BYTES))
            return cls(*read_keys(path), path)

    @property
    def newest(self) -> KekRef:
        self._refresh()
        return self._newest

    @property
    def held(self) -> Sequence[KekRef]:
        """Every KEK of the keyring, the newest last."""
        self._refresh()
        return [KekRef(self.id, version) for version in sorted(self._keks)]

    def holds(self, kek: KekRef) -> bool:
        self._refresh()
        return kek.id == self.id and kek.version in self._keks

    async def wrap(self, key: bytes, context: bytes) -> tuple[KekRef, bytes]:
        self._refresh()
        nonce, sealed = self._keks[self._newest.version].seal(key, _bound(self._newest, context))
        return self._newest, nonce + sealed

    async def unwrap(self, kek: KekRef, ciphertext: bytes, context: bytes) -> bytes:
        if not self.holds(kek):
            raise KekUnknown(str(kek))
        nonce, sealed = ciphertext[:NONCE_BYTES], ciphertext[NONCE_BYTES:]
        key = self._keks[kek.version].open(nonce, sealed, _bound(kek, context))
        if len(key) != KEY_BYTES:
            raise EnvelopeMalformed("its data key has a wrong length")
        return key

    def rotate(self, newest_version: int) -> KekRef:
        """Add a KEK, unless there is one newer than `newest_version` already. Gives the newest."""
        assert self._path is not None, "a keyring without a file cannot keep a key"
        with _locked(self._path):
            id_, keks, index_key = read_keys(self._path)
            if max(keks) == newest_version:
                write_keys(self._path, id_, {**keks, newest_version + 1: os.urandom(KEY_BYTES)}, index_key)
        return self.newest

    def retire(self, versions: Collection[int], settled_s: float) -> Sequence[int]:
        """Destroy KEKs, never the newest. Gives the versions that were destroyed.

        Raises KeyringBusy when the file was changed less than `settled_s` ago: somebody may be wrapping under an older
        one at this moment.
        """
        assert self._path is not None, "a keyring without a file cannot lose a key"
        with _locked(self._path):
            id_, keks, index_key = read_keys(self._path)
            doomed = sorted(set(versions) & keks.keys() - {max(keks)})
            if not doomed:
                return doomed
            if time.time() - self._path.stat().st_mtime < settled_s:
                raise KeyringBusy(settled_s)
            write_keys(self._path, id_, {v: key for v, key in keks.items() if v not in doomed}, index_key)
        return doomed

    def _refresh(self) -> None:
        if self._path is not None and (stamp := _stamp(self._path)) != self._stamp:
            id_, keks, _ = read_keys(self._path)
            if id_ != self.id:
                raise KeyringUnusable(f"{self._path} is another keyring now")
            self._take(keks)
            self._stamp = stamp

    def _take(self, keks: Mapping[int, bytes]) -> None:
        self._keks = {version: Aead(key) for version, key in keks.items()}
        self._newest = KekRef(self.id, max(keks))

    def index_key(self, name: str) -> bytes:
        """The key of one blind index, 32 bytes; a secret of its own, unrelated to every KEK (HKDF, RFC 5869)."""
        return HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=b"blind-index:" + name.encode()).derive(self._index_key)


def read_keys(path: Path) -> tuple[str, dict[int, bytes], bytes]:
    """The keyring's id, its KEKs by version, and the secret of its blind indexes."""
    raw = read_key_file(path)
    try:
        document: dict[str, Any] = json.loads(raw)
        if (document["format"], document["seal"]) != (FORMAT, UNSEALED):
            raise KeyringUnusable(f"{path} has format {document['format']!r} and seal {document['seal']!r}")
        keks = {int(kek["version"]): _decoded(kek["key"]) for kek in document["keks"]}
        id_, index_key = str(document["id"]), _decoded(document["index_key"])
    except (ValueError, TypeError, KeyError, AttributeError):
        # Neither cause nor content: both may hold key material.
        raise KeyringUnusable(f"{path} is damaged") from None
    if not keks or not id_ or min(keks) < 1:
        raise KeyringUnusable(f"{path} holds no key")
    return id_, keks, index_key


def write_keys(path: Path, id_: str, keks: Mapping[int, bytes], index_key: bytes) -> None:
    document = {
        "format": FORMAT,
        "seal": UNSEALED,
        "id": id_,
        "index_key": base64.b64encode(index_key).decode(),
        "keks": [{"version": version, "key": base64.b64encode(key).decode()} for version, key in sorted(keks.items())],
    }
    write_file(path, json.dumps(document, indent=1).encode() + b"\n", KEY_MODE)


def _decoded(text: str) -> bytes:
    key = base64.b64decode(text, validate=True)
    if len(key) != KEY_BYTES:
        raise ValueError("wrong length")
    return key


def _bound(kek: KekRef, context: bytes) -> bytes:
    return f"{kek.id}/{kek.version}/".encode() + context


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the keyring's lock, so that two replicas that start together make one keyring and not two."""
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, KEY_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_ino
