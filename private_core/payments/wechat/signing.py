"""Signatures of WeChat Pay API v3: WECHATPAY2-SHA256-RSA2048 of requests, the same of answers and notifications;
and AEAD_AES_256_GCM for what is sealed for the merchant.

Source: WeChat Pay's merchant documentation, "APIv3", on making and verifying signatures and decrypting notifications.
"""

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256

SCHEMA: Final = "WECHATPAY2-SHA256-RSA2048"
ALGORITHM: Final = "AEAD_AES_256_GCM"
KEY_BYTES: Final = 32
# How far a signature's time may lie from ours.
SKEW_S: Final = 300


class Untrusted(Exception):
    """Not from WeChat Pay, changed on its way, or said before. The message holds nothing of what it said."""


@dataclass(frozen=True, slots=True)
class Signed:
    """What an answer or a notification says of itself in its headers, Wechatpay-*."""

    timestamp: str
    nonce: str
    serial: str
    signature: str

    def message(self, body: bytes) -> bytes:
        return f"{self.timestamp}\n{self.nonce}\n".encode() + body + b"\n"


@dataclass(frozen=True, slots=True)
class Merchant:
    """serial: of the merchant's certificate, whose private key signs."""

    mchid: str
    serial: str
    key: rsa.RSAPrivateKey

    def authorization(self, method: str, target: str, body: bytes, timestamp_s: int, nonce: str) -> str:
        """The header Authorization. target: the path with its query."""
        message = f"{method}\n{target}\n{timestamp_s}\n{nonce}\n".encode() + body + b"\n"
        signature = base64.b64encode(self.key.sign(message, padding.PKCS1v15(), SHA256())).decode()
        parts = {
            "mchid": self.mchid,
            "nonce_str": nonce,
            "signature": signature,
            "timestamp": str(timestamp_s),
            "serial_no": self.serial,
        }
        return f"{SCHEMA} " + ",".join(f'{name}="{value}"' for name, value in parts.items())


def verify(signed: Signed, body: bytes, key: rsa.RSAPublicKey, now_s: int) -> None:
    """Raises Untrusted unless `key` signed just this body within the last five minutes."""
    if not signed.timestamp.isdecimal() or abs(int(signed.timestamp) - now_s) > SKEW_S:
        raise Untrusted("its time is not now")
    try:
        signature = base64.b64decode(signed.signature, validate=True)
        key.verify(signature, signed.message(body), padding.PKCS1v15(), SHA256())
    except (binascii.Error, InvalidSignature):
        raise Untrusted("its signature is not of this key and body") from None


def unseal(resource: Any, api_key: bytes) -> bytes:
    """The plaintext of a sealed resource: {algorithm, nonce, associated_data, ciphertext}. Raises Untrusted."""
    try:
        if resource["algorithm"] != ALGORITHM:
            raise Untrusted("it is sealed by another algorithm")
        sealed = base64.b64decode(resource["ciphertext"], validate=True)
        associated = (resource.get("associated_data") or "").encode()
        return AESGCM(api_key).decrypt(resource["nonce"].encode(), sealed, associated)
    except (KeyError, TypeError, AttributeError, ValueError, InvalidTag):
        raise Untrusted("it is not sealed with the merchant's key") from None
