"""Public P-256 keys as JWK (RFC 7517), named by their thumbprint (RFC 7638)."""

import base64
import hashlib
import json
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

COORDINATE_BYTES: Final = 32


def public_jwk(key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    """The public JWK of a signing key; its id is its thumbprint."""
    numbers = key.public_numbers()
    point = {"crv": "P-256", "kty": "EC", "x": _base64url(numbers.x), "y": _base64url(numbers.y)}
    return {**point, "use": "sig", "alg": "ES256", "kid": thumbprint(point)}


def thumbprint(point: dict[str, str]) -> str:
    """SHA-256 over the required members (crv, kty, x, y) in base64url."""
    canonical = json.dumps(point, separators=(",", ":"), sort_keys=True).encode()
    return base64.urlsafe_b64encode(hashlib.sha256(canonical).digest()).rstrip(b"=").decode()


def _base64url(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes(COORDINATE_BYTES, "big")).rstrip(b"=").decode()
