"""A local implementation of the part of HashiCorp Vault's transit secrets engine that TransitKms uses.

After the engine's HTTP API documentation: keys, encrypt, decrypt, hmac, rotate, config and trim; not Vault itself.
"""

import base64
import hmac
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.integration.keys.json_server import json_served

_PATH: Final = re.compile(r"/v1/transit/(keys|encrypt|decrypt|hmac)/([a-z0-9-]+)(?:/([a-z0-9-]+))?")
_CIPHERTEXT: Final = re.compile(r"vault:v(\d+):([A-Za-z0-9+/=]+)")


class Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Key:
    versions: dict[int, bytes] = field(default_factory=lambda: {1: os.urandom(32)})
    created: dict[int, int] = field(default_factory=lambda: {1: int(time.time())})
    config: dict[str, Any] = field(
        default_factory=lambda: {
            "type": "aes256-gcm96",
            "exportable": False,
            "allow_plaintext_backup": False,
            "min_decryption_version": 1,
            "min_encryption_version": 0,
        }
    )

    @property
    def latest(self) -> int:
        return max(self.versions)


class Transit:
    """The engine's state."""

    def __init__(self) -> None:
        self.token = "hvs.local"
        self.sealed = False
        self.keys: dict[str, Key] = {}
        self._lock = threading.Lock()

    def answer(self, method: str, path: str, token: str, body: dict[str, Any]) -> dict[str, Any]:
        if self.sealed:
            raise Refused(503, "Vault is sealed")
        if token != self.token:
            raise Refused(403, "permission denied")
        found = _PATH.fullmatch(path)
        if found is None or found[2] not in self.keys:
            raise Refused(404, "encryption key not found")
        with self._lock:
            return getattr(self, f"_{found[1]}")(method, self.keys[found[2]], found[3] or "", body)  # type: ignore[no-any-return]

    def _keys(self, method: str, key: Key, action: str, body: dict[str, Any]) -> dict[str, Any]:
        if action == "rotate":
            latest = key.latest + 1
            key.versions[latest], key.created[latest] = os.urandom(32), int(time.time())
        elif action == "config":
            key.config |= body
        elif action == "trim":
            minimum = int(body["min_available_version"])
            if minimum > key.config["min_decryption_version"] or minimum > key.config["min_encryption_version"]:
                raise Refused(400, "minimum available version cannot be higher than minimum decryption version")
            key.versions = {version: made for version, made in key.versions.items() if version >= minimum}
        known = {str(version): key.created[version] for version in key.versions}
        return {"data": {**key.config, "latest_version": key.latest, "keys": known}}

    def _encrypt(self, method: str, key: Key, action: str, body: dict[str, Any]) -> dict[str, Any]:
        nonce = os.urandom(12)
        plain, associated = (base64.b64decode(body[name]) for name in ("plaintext", "associated_data"))
        sealed = nonce + AESGCM(key.versions[key.latest]).encrypt(nonce, plain, associated)
        return {"data": {"ciphertext": f"vault:v{key.latest}:{base64.b64encode(sealed).decode()}"}}

    def _decrypt(self, method: str, key: Key, action: str, body: dict[str, Any]) -> dict[str, Any]:
        found = _CIPHERTEXT.fullmatch(body["ciphertext"])
        if found is None or len(found[2]) % 4:
            raise Refused(400, "invalid ciphertext: could not decode base64")
        version, sealed = int(found[1]), base64.b64decode(found[2])
        if version < key.config["min_decryption_version"] or version not in key.versions:
            raise Refused(400, "ciphertext or signature version is disallowed by policy (too old)")
        try:
            plain = AESGCM(key.versions[version]).decrypt(
                sealed[:12], sealed[12:], base64.b64decode(body["associated_data"])
            )
        except InvalidTag:
            raise Refused(400, "cipher: message authentication failed") from None
        return {"data": {"plaintext": base64.b64encode(plain).decode()}}

    def _hmac(self, method: str, key: Key, action: str, body: dict[str, Any]) -> dict[str, Any]:
        made = hmac.digest(key.versions[int(body["key_version"])], base64.b64decode(body["input"]), "sha256")
        return {"data": {"hmac": f"vault:v{body['key_version']}:{base64.b64encode(made).decode()}"}}


@contextmanager
def serving(transit: Transit) -> Iterator[str]:
    """Its URL."""

    def answer(method: str, path: str, headers: Message, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        try:
            return 200, transit.answer(method, path, headers.get("x-vault-token", ""), body)
        except Refused as refused:
            return refused.status, {"errors": [str(refused)]}

    with json_served(answer) as url:
        yield url
