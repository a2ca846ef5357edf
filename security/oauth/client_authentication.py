"""How clients prove themselves beyond a secret: a signed assertion (RFC 7523), or their certificate (RFC 8705)."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from authlib.oauth2.rfc6749 import InvalidClientError
from authlib.oauth2.rfc7523 import JWTBearerClientAssertion
from joserfc.jwk import KeySet
from joserfc.jwt import Claims

from security.oauth.domain import Authentication

# An assertion is made for one request.
ASSERTION_LIFE_S_MAX: Final = 300
ASSERTION_ID_LENGTH_MAX: Final = 256

# Notes something that is good once; False if it was used before.
UseOnce = Callable[[str, datetime], bool]


class SignedAssertion(JWTBearerClientAssertion):  # type: ignore[misc]
    """private_key_jwt: ES256 alone, a short life, each assertion once on whichever replica."""

    CLIENT_AUTH_METHOD = "private_key_jwt"

    def __init__(self, issuer: str, use_once: UseOnce) -> None:
        super().__init__(leeway=5)
        self._audiences = [issuer, f"{issuer}/oauth/token"]
        self._use_once = use_once

    def __call__(self, query_client: Callable[[str], Any], request: Any) -> Any:
        client = super().__call__(query_client, request)
        claimed = request.payload.client_id
        if client is not None and claimed is not None and claimed != client.get_client_id():
            raise InvalidClientError(description="The client gives two ids.")
        return client

    def get_audiences(self) -> list[str]:
        return self._audiences

    def extract_assertion(self, assertion: str) -> Any:
        header, claims = super().extract_assertion(assertion)
        if header.get("alg") != "ES256" or header.keys() - {"alg", "kid", "typ"}:
            raise InvalidClientError(description="An assertion is signed with ES256 and brings no key along.")
        return header, claims

    def verify_claims(self, claims: Claims) -> None:
        expires = claims.get("exp")
        if type(expires) is not int or expires > time.time() + ASSERTION_LIFE_S_MAX:
            raise InvalidClientError(description=f"An assertion lives at most {ASSERTION_LIFE_S_MAX} s.")
        super().verify_claims(claims)

    def validate_jti(self, claims: Claims, jti: object) -> bool:
        if not isinstance(jti, str) or not 0 < len(jti) <= ASSERTION_ID_LENGTH_MAX:
            return False
        until = datetime.fromtimestamp(claims["exp"] + self.leeway, UTC)
        return self._use_once(f"assertion\0{claims['sub']}\0{jti}", until)

    def resolve_client_public_key(self, client: Any) -> KeySet:
        jwks = client.registered.jwks
        if jwks is None:
            raise InvalidClientError(description="The client has no keys here.")
        return KeySet.import_key_set(json.loads(jwks))


def certificate(query_client: Callable[[str], Any], request: Any) -> Any:
    """tls_client_auth: the certificate that the gateway verified names the client, and its tokens are bound to it."""
    client_id, by = request.payload.client_id, request.caller
    if not client_id or not by.peer or not by.thumbprint:
        return None
    client = query_client(client_id)
    if client is None or client.registered.authentication is not Authentication.TLS:
        return None
    if client.registered.spiffe_id != by.peer:
        return None
    client.confirmation["x5t#S256"] = by.thumbprint
    return client
