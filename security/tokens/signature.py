"""ES256 over the compact serialization (RFC 7515, RFC 7518 section 3.4), and no other algorithm or form."""

import re
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from security.tokens.strict import decoded

# Three parts of base64url without padding, the last an ES256 signature (64 bytes).
COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{86}", re.ASCII)
_NUMBER_BYTES: Final = 32
_ES256: Final = ec.ECDSA(hashes.SHA256())


def signed_payload(token: str, key: ec.EllipticCurvePublicKey) -> bytes:
    """The payload of a token of the form COMPACT. ValueError if `key` did not sign it.

    What the header says is for the caller to check: nothing of it is followed here.
    """
    signed, _, signature = token.rpartition(".")
    require_signature(key, decoded(signature), signed.encode("ascii"))
    return decoded(signed.partition(".")[2])


def require_signature(key: ec.EllipticCurvePublicKey, signature: bytes, signed: bytes) -> None:
    """signature: r and s as 32 bytes each (IEEE P1363). ValueError if it is not by `key` over `signed`."""
    if len(signature) != 2 * _NUMBER_BYTES:
        raise ValueError("a signature has 64 bytes")
    r, s = (int.from_bytes(half, "big") for half in (signature[:_NUMBER_BYTES], signature[_NUMBER_BYTES:]))
    try:
        key.verify(encode_dss_signature(r, s), signed, _ES256)
    except InvalidSignature as error:
        raise ValueError("the signature does not verify") from error
