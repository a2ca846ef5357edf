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
_ES256: Final = ec.ECDSA(hashes.SHA256())


def signed_payload(token: str, key: ec.EllipticCurvePublicKey) -> bytes:
    """The payload of a token of the form COMPACT. ValueError if `key` did not sign it.

    What the header says is for the caller to check: nothing of it is followed here.
    """
    signed, _, signature = token.rpartition(".")
    raw = decoded(signature)
    r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
    try:
        key.verify(encode_dss_signature(r, s), signed.encode("ascii"), _ES256)
    except InvalidSignature as error:
        raise ValueError("the signature does not verify") from error
    return decoded(signed.partition(".")[2])
