"""How a program proves itself to the authorization server without a secret that two know (RFC 7523, section 2.2)."""

import secrets
import time
from pathlib import Path
from typing import Final

from joserfc import jwt
from joserfc.jwk import ECKey

TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
# One request long.
LIFE_S: Final = 60


class AssertionKey:
    """The private P-256 key of a client, from a PEM file; its public half is registered with the authorization server.

    OSError or ValueError if the file cannot be read or holds no such key.
    """

    def __init__(self, client_id: str, key_file: Path) -> None:
        self._client_id = client_id
        self._key = ECKey.import_key(key_file.read_text())
        if self._key.curve_name != "P-256" or not self._key.is_private:
            raise ValueError(f"{key_file} holds no private P-256 key")

    def form(self, issuer: str) -> dict[str, str]:
        """The parameters that prove the client in one request to `issuer`."""
        now_s = int(time.time())
        claims = {
            "iss": self._client_id,
            "sub": self._client_id,
            "aud": issuer,
            "iat": now_s,
            "exp": now_s + LIFE_S,
            "jti": secrets.token_urlsafe(16),
        }
        header = {"alg": "ES256", "kid": self._key.thumbprint()}
        return {"client_assertion_type": TYPE, "client_assertion": jwt.encode(header, claims, self._key)}
