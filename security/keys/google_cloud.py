"""Google Cloud KMS by its REST API (v1) as the KMS: keys stay there, and its access control says who may use them.

Two keys of one key ring: NAME (purpose ENCRYPT_DECRYPT, its versions are the KEK's) wraps data keys, and NAME-index
(purpose MAC, HMAC_SHA256) makes the keys of blind indexes by its first version and is never rotated. Who calls is a
service account by a key file; it needs cryptoKeyVersions.list, .create, .destroy, .useToEncrypt and .useToDecrypt of
NAME, cryptoKeyVersions.useToSign of NAME-index, and cryptoKeys.get of both.

What is sent and answered carries a CRC32C, as Google asks of whoever encrypts: what was damaged on the way in would
otherwise be sealed for good.
"""

import base64
import hashlib
import json
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import aiohttp
import google_crc32c
import jwt

from mesh.files import read_key_file
from security.keys.aead import KEY_BYTES
from security.keys.errors import EnvelopeMalformed, EnvelopeRejected, KekUnknown, KeyringBusy, KmsAway, KmsRefused
from security.keys.port import KekRef

ENDPOINT: Final = "https://cloudkms.googleapis.com"
TIMEOUT_S: Final = 2.0
# A token that the account signs by itself, for this API and no other.
_AUDIENCE: Final = f"{ENDPOINT}/"
_TOKEN_S: Final = 3600
_RENEWED_S: Final = 600
_PAGES_MAX: Final = 50
_PAGE: Final = 500
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_ENABLED: Final = "ENABLED"
_COMING: Final = "PENDING_GENERATION"


class _Refused(Exception):
    """The request was read, and not followed. status: as google.rpc.Code names it."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


class GoogleCloudKms:
    """A `Kms`. The account's key is read from its file anew whenever that changed."""

    def __init__(self, ring: str, name: str, credentials: Path, endpoint: str = ENDPOINT) -> None:
        """ring: projects/P/locations/L/keyRings/R."""
        parts = urlsplit(endpoint)
        if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
            raise KmsRefused(f"{endpoint} is not https", "Name the endpoint by https://.")
        # Every envelope holds it, so it is short.
        self.id = f"google-{hashlib.sha256(ring.encode()).hexdigest()[:8]}-{name}"
        self._key = f"{ring}/cryptoKeys/{name}"
        self._credentials = credentials
        self._stamp = 0
        self._token, self._renewed = "", 0.0
        self._endpoint = endpoint.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Look at both keys. Raises KmsRefused for one that is not there, or is not what it must be."""
        for key, purpose in ((self._key, "ENCRYPT_DECRYPT"), (f"{self._key}-index", "MAC")):
            try:
                found = await self._call("GET", key)
            except _Refused as refused:
                raise KmsRefused(f"{key}: {refused}", f"Make it, with purpose {purpose}, and let us use it.") from None
            algorithm = found.get("versionTemplate", {}).get("algorithm")
            if found.get("purpose") != purpose or (purpose == "MAC" and algorithm != "HMAC_SHA256"):
                raise KmsRefused(
                    f"{key} is for something else", f"Make it with purpose {purpose} (HMAC_SHA256 for MAC)."
                )

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def held(self) -> Sequence[KekRef]:
        return [KekRef(self.id, version) for version in sorted(await self._versions())]

    async def wrap(self, key: bytes, context: bytes) -> tuple[KekRef, bytes]:
        # Asked each time, for another process may have added a version. By name, so that the context can hold it:
        # nothing else tells later which version it was.
        newest = (await self.held())[-1]
        sent = _checked(plaintext=key, additionalAuthenticatedData=_bound(newest, context))
        answer = await self._use(newest, "encrypt", sent)
        if not (answer.get("verifiedPlaintextCrc32c") and answer.get("verifiedAdditionalAuthenticatedDataCrc32c")):
            raise KmsAway("what it was sent was damaged on the way")
        return newest, _read(answer, "ciphertext")

    async def unwrap(self, kek: KekRef, ciphertext: bytes, context: bytes) -> bytes:
        if kek.id != self.id:
            raise KekUnknown(str(kek))
        sent = _checked(ciphertext=ciphertext, additionalAuthenticatedData=_bound(kek, context))
        key = _read(await self._use(kek, "decrypt", sent), "plaintext")
        if len(key) != KEY_BYTES:
            raise EnvelopeMalformed("its data key has a wrong length")
        return key

    async def rotate(self, newest_version: int) -> KekRef:
        if max(await self._versions(_ENABLED, _COMING)) == newest_version:
            await self._managed("POST", f"{self._key}/cryptoKeyVersions", {})
        if max(await self._versions(_ENABLED, _COMING)) not in (enabled := await self._versions()):
            raise KmsAway("the new version is still being made")
        return KekRef(self.id, max(enabled))

    async def retire(self, versions: Collection[int], settled_s: float) -> Sequence[int]:
        """Google destroys a version for good a while after (its destroy_scheduled_duration); unused it is at once."""
        held = await self._versions()
        doomed = sorted(set(versions) & held.keys() - {max(held)})
        if not doomed:
            return doomed
        added = datetime.fromisoformat(held[max(held)]["createTime"]).timestamp()
        if time.time() - added < settled_s:
            raise KeyringBusy(settled_s)
        for version in doomed:
            await self._managed("POST", f"{self._version(version)}:destroy", {})
        return doomed

    async def index_key(self, name: str) -> bytes:
        sent = _checked(data=b"blind-index:" + name.encode())
        answer = await self._managed("POST", f"{self._key}-index/cryptoKeyVersions/1:macSign", sent)
        if not answer.get("verifiedDataCrc32c"):
            raise KmsAway("what it was sent was damaged on the way")
        return _read(answer, "mac")

    def _version(self, version: int) -> str:
        return f"{self._key}/cryptoKeyVersions/{version}"

    async def _versions(self, *states: str) -> dict[int, Mapping[str, Any]]:
        """The versions in one of these states, by default those that work."""
        found: dict[int, Mapping[str, Any]] = {}
        token = ""
        for _ in range(_PAGES_MAX):
            page = await self._managed(
                "GET", f"{self._key}/cryptoKeyVersions?pageSize={_PAGE}&pageToken={quote(token)}"
            )
            for each in page.get("cryptoKeyVersions", ()):
                if each["state"] in (states or (_ENABLED,)):
                    found[int(each["name"].rpartition("/")[2])] = each
            token = page.get("nextPageToken", "")
            if not token:
                break
        if not found:
            raise KmsRefused(f"{self._key} has no version that works", "Enable one, or make one.")
        return found

    async def _use(self, kek: KekRef, operation: str, body: Mapping[str, Any]) -> Any:
        # A ciphertext says itself which version it needs, and decrypt takes the key alone.
        name = self._version(kek.version) if operation == "encrypt" else self._key
        try:
            return await self._call("POST", f"{name}:{operation}", body)
        except _Refused as refused:
            if operation == "decrypt" and refused.status == "INVALID_ARGUMENT":
                raise EnvelopeRejected from None
            # The version is disabled, or destroyed.
            if refused.status in ("FAILED_PRECONDITION", "NOT_FOUND"):
                raise KekUnknown(str(kek)) from None
            raise self._refusal(operation, refused) from None

    async def _managed(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        try:
            return await self._call(method, path, body)
        except _Refused as refused:
            raise self._refusal(f"{method} {path.partition('?')[0]}", refused) from None

    def _refusal(self, operation: str, refused: _Refused) -> KmsRefused:
        remedy = f"Give the account of {self._credentials} the rights that security/keys/google_cloud.py names."
        return KmsRefused(f"{operation}: {refused}", remedy)

    async def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """One request. Raises _Refused, KmsRefused or KmsAway."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
        headers = {"authorization": f"Bearer {self._bearer()}"}
        try:
            url = f"{self._endpoint}/v1/{path}"
            async with self._session.request(method, url, json=body, headers=headers) as response:
                answer = await response.json()
                status = response.status
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise KmsAway(type(error).__name__) from None
        if status == 200:
            return answer
        said = answer.get("error", {}) if isinstance(answer, dict) else {}
        if status >= 500 or status == 429:
            raise KmsAway(str(said.get("status", status)))
        message = str(said.get("message", ""))[:300]
        if "checksum" in message:
            raise KmsAway("what it was sent was damaged on the way")
        raise _Refused(str(said.get("status", status)), message)

    def _bearer(self) -> str:
        """A token signed by the account's own key, for an hour (self-signed JWT, RFC 7523 section 2.2)."""
        stamp, now = self._credentials.stat().st_mtime_ns, time.time()
        if stamp != self._stamp or now > self._renewed + _RENEWED_S or now < self._renewed:
            try:
                account = json.loads(read_key_file(self._credentials))
                claims = {"iss": account["client_email"], "sub": account["client_email"], "aud": _AUDIENCE}
                times = {"iat": int(now), "exp": int(now) + _TOKEN_S}
                key, headers = account["private_key"], {"kid": account["private_key_id"]}
                self._token = jwt.encode(claims | times, key, "RS256", headers)
            except (ValueError, KeyError, TypeError, jwt.PyJWTError):
                # Neither cause nor content: both may hold the key.
                remedy = "Write a key of the service account, as Google made it (JSON), into it."
                raise KmsRefused(f"{self._credentials} holds no key of a service account", remedy) from None
            self._stamp, self._renewed = stamp, now
        return self._token


def _bound(kek: KekRef, context: bytes) -> bytes:
    return f"{kek.version}/".encode() + context


def _checked(**fields: bytes) -> dict[str, str]:
    """Each field in base64, and its CRC32C beside it; a 64-bit number is a string in this JSON."""
    sent = {name: base64.b64encode(value).decode() for name, value in fields.items()}
    return sent | {f"{name}Crc32c": str(google_crc32c.value(value)) for name, value in fields.items()}


def _read(answer: Mapping[str, Any], name: str) -> bytes:
    """A field of an answer, as it was sent. Raises KmsAway for one that was damaged on the way."""
    try:
        value = base64.b64decode(answer[name], validate=True)
        intact = int(answer[f"{name}Crc32c"]) == google_crc32c.value(value)
    except (KeyError, ValueError, TypeError):
        intact = False
    if not intact:
        raise KmsAway("what it answered was damaged on the way")
    return value
