"""A local implementation of the part of Google Cloud KMS's REST API (v1) that GoogleCloudKms uses.

After the API's reference: cryptoKeys.get, .encrypt and .decrypt, cryptoKeyVersions.list, .create, .destroy, .macSign,
self-signed tokens of a service account, and CRC32C of all that is sent and answered; not Google's program.
"""

import base64
import hmac
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import Message
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import google_crc32c
import jwt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.integration.keys.json_server import json_served

RING: Final = "projects/shop/locations/asia-east1/keyRings/isthmus"
# Small, so that there is more than one.
PAGE: Final = 2
_PATH: Final = re.compile(rf"/v1/{RING}/cryptoKeys/([a-z-]+)(?:/cryptoKeyVersions(?:/(\d+))?)?(?::([a-zA-Z]+))?")


class Refused(Exception):
    def __init__(self, code: int, status: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


@dataclass
class Key:
    purpose: str = "ENCRYPT_DECRYPT"
    algorithm: str = "GOOGLE_SYMMETRIC_ENCRYPTION"
    secrets: dict[int, bytes] = field(default_factory=dict)
    states: dict[int, str] = field(default_factory=dict)
    created: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.add()

    def add(self) -> int:
        number = len(self.states) + 1
        self.secrets[number], self.states[number] = os.urandom(32), "ENABLED"
        # With nanoseconds, as Google writes them.
        self.created[number] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
        return number


class Google:
    """The service's state, and the one account that it knows."""

    def __init__(self) -> None:
        self.keys: dict[str, Key] = {}
        self.outage = False
        # Whether what comes in, or goes out, loses a bit.
        self.damage_in = self.damage_out = False
        self._account = rsa.generate_private_key(65537, 2048)
        self._lock = threading.Lock()

    def credentials(self) -> str:
        pem = self._account.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        account = {"type": "service_account", "private_key_id": "7", "private_key": pem.decode()}
        return json.dumps(account | {"client_email": "members@shop.iam.gserviceaccount.com"})

    def answer(self, method: str, target: str, token: str, body: dict[str, Any]) -> dict[str, Any]:
        if self.outage:
            raise Refused(503, "UNAVAILABLE", "The service is currently unavailable.")
        try:
            public, audience = self._account.public_key(), "https://cloudkms.googleapis.com/"
            claims = jwt.decode(token, public, ["RS256"], audience=audience, options={"require": ["exp", "iat"]})
            known = claims["iss"] == claims["sub"] == "members@shop.iam.gserviceaccount.com"
        except jwt.PyJWTError:
            known = False
        if not known:
            raise Refused(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
        url = urlsplit(target)
        found = _PATH.fullmatch(url.path)
        if found is None or found[1] not in self.keys:
            raise Refused(404, "NOT_FOUND", f"CryptoKey {url.path} not found.")
        name, key, version = found[1], self.keys[found[1]], int(found[2] or 0)
        if version and version not in key.states:
            raise Refused(404, "NOT_FOUND", "CryptoKeyVersion not found.")
        with self._lock:
            if found[3]:
                return getattr(self, f"_{found[3]}")(name, key, version, body)  # type: ignore[no-any-return]
            if not url.path.endswith("cryptoKeyVersions"):
                return {"name": name, "purpose": key.purpose, "versionTemplate": {"algorithm": key.algorithm}}
            if method == "POST":
                return self._shown(name, key, key.add())
            return self._listed(name, key, parse_qs(url.query))

    def _shown(self, name: str, key: Key, version: int) -> dict[str, Any]:
        path = f"{RING}/cryptoKeys/{name}/cryptoKeyVersions/{version}"
        return {"name": path, "state": key.states[version], "createTime": key.created[version]}

    def _listed(self, name: str, key: Key, query: dict[str, list[str]]) -> dict[str, Any]:
        begin = int(query.get("pageToken", ["0"])[0])
        # Newest first: no order is promised.
        numbers = sorted(key.states, reverse=True)
        page = numbers[begin : begin + PAGE]
        more = {"nextPageToken": str(begin + PAGE)} if begin + PAGE < len(numbers) else {}
        return {"cryptoKeyVersions": [self._shown(name, key, each) for each in page]} | more

    def _encrypt(self, name: str, key: Key, version: int, body: dict[str, Any]) -> dict[str, Any]:
        version = version or max(each for each, state in key.states.items() if state == "ENABLED")
        self._require(key, version)
        plain, associated = self._taken(body, "plaintext"), self._taken(body, "additionalAuthenticatedData")
        nonce = os.urandom(12)
        sealed = version.to_bytes(4, "big") + nonce + AESGCM(key.secrets[version]).encrypt(nonce, plain, associated)
        verified = {"verifiedPlaintextCrc32c": True, "verifiedAdditionalAuthenticatedDataCrc32c": True}
        return {"name": self._shown(name, key, version)["name"]} | verified | self._sent("ciphertext", sealed)

    def _decrypt(self, name: str, key: Key, version: int, body: dict[str, Any]) -> dict[str, Any]:
        sealed, associated = self._taken(body, "ciphertext"), self._taken(body, "additionalAuthenticatedData")
        used = int.from_bytes(sealed[:4], "big")
        if used not in key.states:
            raise Refused(400, "INVALID_ARGUMENT", "Decryption failed: the ciphertext is invalid.")
        self._require(key, used)
        try:
            plain = AESGCM(key.secrets[used]).decrypt(sealed[4:16], sealed[16:], associated)
        except (InvalidTag, ValueError):
            raise Refused(400, "INVALID_ARGUMENT", "Decryption failed: verify that 'name' refers to it.") from None
        return self._sent("plaintext", plain)

    def _destroy(self, name: str, key: Key, version: int, body: dict[str, Any]) -> dict[str, Any]:
        key.states[version] = "DESTROY_SCHEDULED"
        return self._shown(name, key, version)

    def _macSign(self, name: str, key: Key, version: int, body: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self._require(key, version)
        made = hmac.digest(key.secrets[version], self._taken(body, "data"), "sha256")
        return {"verifiedDataCrc32c": True} | self._sent("mac", made)

    def _require(self, key: Key, version: int) -> None:
        if key.states[version] != "ENABLED":
            message = f"CryptoKeyVersion {version} is not enabled, current state is: {key.states[version]}."
            raise Refused(400, "FAILED_PRECONDITION", message)

    def _taken(self, body: dict[str, Any], name: str) -> bytes:
        value = base64.b64decode(body[name])
        if self.damage_in:
            value = bytes([value[0] ^ 1]) + value[1:]
        if int(body[f"{name}Crc32c"]) != google_crc32c.value(value):
            raise Refused(400, "INVALID_ARGUMENT", f"The checksum in field {name}_crc32c did not match the data.")
        return value

    def _sent(self, name: str, value: bytes) -> dict[str, Any]:
        checksum = str(google_crc32c.value(value))
        if self.damage_out:
            value = bytes([value[0] ^ 1]) + value[1:]
        return {name: base64.b64encode(value).decode(), f"{name}Crc32c": checksum}


@contextmanager
def serving(google: Google) -> Iterator[str]:
    """Its URL."""

    def answer(method: str, path: str, headers: Message, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        try:
            return 200, google.answer(method, path, headers.get("authorization", "").removeprefix("Bearer "), body)
        except Refused as refused:
            said = {"code": refused.code, "status": refused.status, "message": str(refused)}
            return refused.code, {"error": said}

    with json_served(answer) as url:
        yield url
