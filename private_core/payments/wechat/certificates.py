"""The platform's certificates: which one signs is named by its serial, and new ones come before old ones go."""

import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from mesh.clock import Clock
from private_core.payments.wechat.signing import Signed, Untrusted, unseal, verify

# They are asked for anew after so long (the documentation's advice is 12 hours), and at once for an unknown serial.
RENEWED_S: Final = 12 * 3600.0
# But not more often than this: whoever sends unknown serials must not make us ask again and again.
ASKED_S_MIN: Final = 10.0
CERTIFICATES_MAX: Final = 16

# GET /v3/certificates: the answer's signature and body.
Ask = Callable[[], Awaitable[tuple[Signed, bytes]]]


class Certificates:
    """Public keys by serial number."""

    def __init__(self, ask: Ask, api_key: bytes, clock: Clock) -> None:
        self._ask = ask
        self._api_key = api_key
        self._clock = clock
        self._known: Mapping[str, x509.Certificate] = {}
        self._asked_at: float | None = None

    async def verify(self, signed: Signed, body: bytes) -> None:
        """Raises Untrusted unless the platform signed this body; MeshError when its certificates cannot be had."""
        now_s = self._clock.now_us() // 1_000_000
        verify(signed, body, await self._key(signed.serial), now_s)

    async def _key(self, serial: str) -> rsa.RSAPublicKey:
        since_s = float("inf") if self._asked_at is None else self._clock.monotonic() - self._asked_at
        if since_s > RENEWED_S or (serial not in self._known and since_s > ASKED_S_MIN):
            await self._renew()
        certificate = self._known.get(serial)
        now = datetime.fromtimestamp(self._clock.now_us() / 1_000_000, UTC)
        if certificate is None or not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
            raise Untrusted("no certificate of the platform that is valid now has its serial number")
        key = certificate.public_key()
        if not isinstance(key, rsa.RSAPublicKey):
            raise Untrusted("the platform's certificate has no RSA key")
        return key

    async def _renew(self) -> None:
        """Only who has the merchant's APIv3 key can have sealed them; and one of them must have signed the answer."""
        signed, body = await self._ask()
        self._asked_at = self._clock.monotonic()
        try:
            sealed = [each["encrypt_certificate"] for each in json.loads(body)["data"][:CERTIFICATES_MAX]]
            found = [x509.load_pem_x509_certificate(unseal(each, self._api_key)) for each in sealed]
        except (ValueError, KeyError, TypeError):
            raise Untrusted("the answer holds no certificates") from None
        known = {format(each.serial_number, "X"): each for each in found}
        signer = known.get(signed.serial.upper())
        key = signer.public_key() if signer else None
        if not isinstance(key, rsa.RSAPublicKey):
            raise Untrusted("none of the certificates signed the answer that brought them")
        verify(signed, body, key, self._clock.now_us() // 1_000_000)
        self._known = known
