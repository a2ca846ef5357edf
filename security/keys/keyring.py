"""The local keyring: key-encryption keys and the blind indexes' secret in one sealed file, for a mesh without a KMS.

    {"format": 2, "seal": "key-file", "salt": "<base64>", "sealed": "<base64>"}

`sealed` is nonce and ciphertext (AES-256-GCM) of the document below, under the key that the seal derives from the salt.

    {"id": "local-5f0c1d2e", "index_key": "<base64>", "keks": [{"version": 1, "key": "<base64>"}]}

A file of format 1, which held that document in clear, is sealed when it is opened.
"""

import base64
import json
import os
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mesh.files import PRIVATE_MODE, read_key_file, write_file
from security.keys.aead import KEY_BYTES, NONCE_BYTES, Aead
from security.keys.errors import EnvelopeMalformed, EnvelopeRejected, KekUnknown, KeyringBusy, KeyringUnusable
from security.keys.port import KekRef
from security.keys.seal import SALT_BYTES, KeyFileSeal, Seal
from security.keys.wraps import WrapLedger, locked

FORMAT: Final = 2
_UNSEALED_FORMAT: Final = 1


class Keyring:
    """A `Kms` of this machine. Wraps under its newest KEK and unwraps under any that it holds.

    A file that another process changed is read again before it matters, so that a rotation needs no restart.
    """

    def __init__(self, path: Path, seal: Seal) -> None:
        self._path = path
        self._seal = seal
        self._stamp = _stamp(path)
        self.id, keks, self._index_key = read_keys(path, seal)
        self._wraps = WrapLedger(path.with_suffix(".wraps"))
        self._take(keks)

    @classmethod
    def open(cls, path: Path, seal: Seal | None = None) -> "Keyring":
        """Read the keyring; the first process to ask makes it.

        seal: by default a key file in the folder `seals` beside the keyring's own. Raises KeyringUnusable, or
        FailedPrecondition when others may read one of the files.
        """
        seal = seal or KeyFileSeal.beside(path)
        with locked(path):
            if not path.exists():
                made = f"local-{os.urandom(4).hex()}", {1: os.urandom(KEY_BYTES)}, os.urandom(KEY_BYTES)
                write_keys(path, *made, seal)
            elif _document(path).get("format") == _UNSEALED_FORMAT:
                write_keys(path, *read_keys(path, seal), seal)
            return cls(path, seal)

    async def held(self) -> Sequence[KekRef]:
        self._refresh()
        return [KekRef(self.id, version) for version in sorted(self._keks)]

    async def wrap(self, key: bytes, context: bytes) -> tuple[KekRef, bytes]:
        self._refresh()
        self._wraps.spend(self._newest)
        nonce, sealed = self._keks[self._newest.version].seal(key, _bound(self._newest, context))
        return self._newest, nonce + sealed

    async def unwrap(self, kek: KekRef, ciphertext: bytes, context: bytes) -> bytes:
        self._refresh()
        if kek.id != self.id or kek.version not in self._keks:
            raise KekUnknown(str(kek))
        nonce, sealed = ciphertext[:NONCE_BYTES], ciphertext[NONCE_BYTES:]
        key = self._keks[kek.version].open(nonce, sealed, _bound(kek, context))
        if len(key) != KEY_BYTES:
            raise EnvelopeMalformed("its data key has a wrong length")
        return key

    async def rotate(self, newest_version: int) -> KekRef:
        with locked(self._path):
            id_, keks, index_key = read_keys(self._path, self._seal)
            if max(keks) == newest_version:
                keks = {**keks, newest_version + 1: os.urandom(KEY_BYTES)}
                write_keys(self._path, id_, keks, index_key, self._seal)
        return (await self.held())[-1]

    async def retire(self, versions: Collection[int], settled_s: float) -> Sequence[int]:
        with locked(self._path):
            id_, keks, index_key = read_keys(self._path, self._seal)
            doomed = sorted(set(versions) & keks.keys() - {max(keks)})
            if not doomed:
                return doomed
            if time.time() - self._path.stat().st_mtime < settled_s:
                raise KeyringBusy(settled_s)
            kept = {version: key for version, key in keks.items() if version not in doomed}
            write_keys(self._path, id_, kept, index_key, self._seal)
        return doomed

    async def index_key(self, name: str) -> bytes:
        # HKDF, RFC 5869.
        return HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=b"blind-index:" + name.encode()).derive(self._index_key)

    async def close(self) -> None:
        """Nothing is open."""

    def _refresh(self) -> None:
        if (stamp := _stamp(self._path)) != self._stamp:
            id_, keks, _ = read_keys(self._path, self._seal)
            if id_ != self.id:
                raise KeyringUnusable(f"{self._path} is another keyring now")
            self._take(keks)
            self._stamp = stamp

    def _take(self, keks: Mapping[int, bytes]) -> None:
        self._keks = {version: Aead(key) for version, key in keks.items()}
        self._newest = KekRef(self.id, max(keks))


def read_keys(path: Path, seal: Seal) -> tuple[str, dict[int, bytes], bytes]:
    """The keyring's id, its KEKs by version, and the secret of its blind indexes. Raises KeyringUnusable."""
    document = _document(path)
    try:
        if document["format"] == FORMAT:
            if document["seal"] != seal.kind:
                raise KeyringUnusable(f"{path} is sealed by {document['seal']!r} and not by {seal.kind}")
            salt, sealed = (base64.b64decode(document[name], validate=True) for name in ("salt", "sealed"))
            aead = Aead(seal.key(salt))
            document = json.loads(aead.open(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _header(seal, salt)))
        elif document["format"] != _UNSEALED_FORMAT:
            raise KeyringUnusable(f"{path} has format {document['format']!r}")
        keks = {int(kek["version"]): _decoded(kek["key"]) for kek in document["keks"]}
        id_, index_key = str(document["id"]), _decoded(document["index_key"])
    except (EnvelopeRejected, EnvelopeMalformed):
        raise KeyringUnusable(f"{path} is damaged, or sealed under another key") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        # Neither cause nor content: both may hold key material.
        raise KeyringUnusable(f"{path} is damaged") from None
    if not keks or not id_ or min(keks) < 1:
        raise KeyringUnusable(f"{path} holds no key")
    return id_, keks, index_key


def write_keys(path: Path, id_: str, keks: Mapping[int, bytes], index_key: bytes, seal: Seal) -> None:
    document = {
        "id": id_,
        "index_key": base64.b64encode(index_key).decode(),
        "keks": [{"version": version, "key": base64.b64encode(key).decode()} for version, key in sorted(keks.items())],
    }
    # A key for this one writing: no count of its nonces is needed.
    salt = os.urandom(SALT_BYTES)
    nonce, sealed = Aead(seal.key(salt)).seal(json.dumps(document).encode(), _header(seal, salt))
    texts = {"salt": base64.b64encode(salt).decode(), "sealed": base64.b64encode(nonce + sealed).decode()}
    written = {"format": FORMAT, "seal": seal.kind, **texts}
    try:
        write_file(path, json.dumps(written, indent=1).encode() + b"\n", PRIVATE_MODE)
    except OSError as error:
        raise KeyringUnusable(f"{path} cannot be written: {error.strerror}") from None


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(read_key_file(path))
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise KeyringUnusable(f"{path} is damaged")
    return document


def _header(seal: Seal, salt: bytes) -> bytes:
    return f"isthmus keyring {FORMAT} {seal.kind} ".encode() + salt


def _decoded(text: str) -> bytes:
    key = base64.b64decode(text, validate=True)
    if len(key) != KEY_BYTES:
        raise ValueError("wrong length")
    return key


def _bound(kek: KekRef, context: bytes) -> bytes:
    return f"{kek.id}/{kek.version}/".encode() + context


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise KeyringUnusable(f"{path} cannot be read: {error.strerror}") from None
    return status.st_mtime_ns, status.st_ino
