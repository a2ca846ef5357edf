"""HashiCorp Vault's transit secrets engine as the KMS: keys stay in Vault, which counts what they do and says who may.

Two keys of type aes256-gcm96 under one mount: NAME wraps data keys, NAME-index makes the keys of blind indexes and is
never rotated. The token needs `update` on encrypt, decrypt, rotate, config and trim of NAME and on hmac of NAME-index,
and `read` on both; not to create either.
"""

import asyncio
import base64
import re
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import hvac
import requests
from hvac import exceptions

from mesh.files import read_key_file
from security.keys.aead import KEY_BYTES
from security.keys.errors import EnvelopeMalformed, EnvelopeRejected, KekUnknown, KeyringBusy, KmsAway, KmsRefused
from security.keys.port import KekRef

TIMEOUT_S: Final = 2.0
KEY_TYPE: Final = "aes256-gcm96"
_CIPHERTEXT: Final = re.compile(rb"vault:v([1-9][0-9]{0,8}):[A-Za-z0-9+/=]+")
_AWAY: Final = (
    requests.RequestException,
    exceptions.VaultDown,
    exceptions.InternalServerError,
    exceptions.BadGateway,
    exceptions.RateLimitExceeded,
    exceptions.VaultNotInitialized,
)
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


class TransitKms:
    """A `Kms`. The token is read from its file anew whenever that changed: whoever renews it writes it there."""

    def __init__(self, url: str, name: str, token_file: Path, mount: str = "transit", ca: Path | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
            raise KmsRefused(f"{url} is not https", "Name Vault by https://, with its CA where it is its own.")
        self.id = f"transit-{mount}-{name}"
        self._name = name
        self._mount = mount
        self._token_file = token_file
        self._token_stamp = 0
        self._client = hvac.Client(url=url, verify=str(ca) if ca else True, timeout=TIMEOUT_S)

    async def open(self) -> None:
        """Look at both keys. Raises KmsRefused for one that is not there, or is not what it must be."""
        for name in (self._name, f"{self._name}-index"):
            found = await self._read(name)
            if found["type"] != KEY_TYPE or found["exportable"] or found["allow_plaintext_backup"]:
                remedy = f"Make it with `vault write -f {self._mount}/keys/{name} type={KEY_TYPE}`."
                raise KmsRefused(f"the key {name} is of another type, or can be taken out", remedy)

    async def held(self) -> Sequence[KekRef]:
        found = await self._read(self._name)
        first = max(int(found["min_decryption_version"]), 1)
        return [KekRef(self.id, version) for version in range(first, int(found["latest_version"]) + 1)]

    async def wrap(self, key: bytes, context: bytes) -> tuple[KekRef, bytes]:
        answer = await self._call("encrypt_data", plaintext=_text(key), associated_data=_text(context))
        ciphertext = str(answer["data"]["ciphertext"]).encode()
        return KekRef(self.id, _version(ciphertext)), ciphertext

    async def unwrap(self, kek: KekRef, ciphertext: bytes, context: bytes) -> bytes:
        if kek.id != self.id:
            raise KekUnknown(str(kek))
        if _version(ciphertext) != kek.version:
            raise EnvelopeRejected
        try:
            answer = await self._call("decrypt_data", ciphertext=ciphertext.decode(), associated_data=_text(context))
        except exceptions.InvalidRequest as error:
            # Its reasons that are not our fault: the version is gone, or what it was given does not fit.
            if "version" in str(error):
                raise KekUnknown(str(kek)) from None
            raise EnvelopeRejected from None
        key = base64.b64decode(answer["data"]["plaintext"])
        if len(key) != KEY_BYTES:
            raise EnvelopeMalformed("its data key has a wrong length")
        return key

    async def rotate(self, newest_version: int) -> KekRef:
        if (await self.held())[-1].version == newest_version:
            await self._call("rotate_key")
        return (await self.held())[-1]

    async def retire(self, versions: Collection[int], settled_s: float) -> Sequence[int]:
        """Vault destroys from the oldest on: those above a version that stays, stay as well."""
        held = [kek.version for kek in await self.held()]
        kept = next(version for version in held if version not in versions or version == held[-1])
        doomed = [version for version in held if version < kept]
        if not doomed:
            return doomed
        added = (await self._read(self._name))["keys"][str(held[-1])]
        if time.time() - int(added) < settled_s:
            raise KeyringBusy(settled_s)
        # One after the other: together the client refuses them when they are equal, which Vault does not.
        await self._call("update_key_configuration", min_encryption_version=kept)
        await self._call("update_key_configuration", min_decryption_version=kept)
        await self._call("trim_key", min_version=kept)
        return doomed

    async def index_key(self, name: str) -> bytes:
        hashed = _text(b"blind-index:" + name.encode())
        answer = await self._call(
            "generate_hmac", f"{self._name}-index", hash_input=hashed, key_version=1, algorithm="sha2-256"
        )
        return base64.b64decode(str(answer["data"]["hmac"]).removeprefix("vault:v1:"))

    async def close(self) -> None:
        self._client.adapter.close()

    async def _read(self, name: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = (await self._call("read_key", name))["data"]
        except exceptions.InvalidPath:
            remedy = f"Make it with `vault write -f {self._mount}/keys/{name} type={KEY_TYPE}`."
            raise KmsRefused(f"there is no key {name} in {self._mount}", remedy) from None
        return found

    async def _call(self, operation: str, name: str = "", **arguments: Any) -> Any:
        """One request, in a thread: the client blocks. Its own deadline ends it."""
        call: Callable[..., Any] = getattr(self._client.secrets.transit, operation)
        try:
            self._renew()
            return await asyncio.to_thread(call, name or self._name, mount_point=self._mount, **arguments)
        except (exceptions.Forbidden, exceptions.Unauthorized):
            remedy = f"Write a token into {self._token_file} that may use the key."
            raise KmsRefused(f"the token may not {operation}", remedy) from None
        except _AWAY as error:
            raise KmsAway(type(error).__name__) from None

    def _renew(self) -> None:
        stamp = self._token_file.stat().st_mtime_ns
        if stamp != self._token_stamp:
            self._client.token = read_key_file(self._token_file).decode().strip()
            self._token_stamp = stamp


def _version(ciphertext: bytes) -> int:
    found = _CIPHERTEXT.fullmatch(ciphertext)
    if found is None:
        raise EnvelopeMalformed("its wrapped key is not of Vault")
    return int(found[1])


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
