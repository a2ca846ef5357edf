"""Signing members in at other sites (OpenID Connect Core 1.0): an ID token beside the tokens of a code.

It says who signed in, when and how, to one client. Nothing else of a member is told: there are no claims of a profile
and no UserInfo endpoint.
"""

import time
from collections.abc import Mapping
from typing import Any, Final

from authlib.oidc.core.grants.code import OpenIDToken
from joserfc.jwk import KeySet

from security.oauth.domain import TOKEN_LIFE
from security.oauth.protocol import Member, RegisteredClient
from security.oauth.signing import SigningKeys

SCOPE: Final = "openid"
ALGORITHM: Final = "ES256"


class IdTokens(OpenIDToken):  # type: ignore[misc]
    """An extension of the code grant. Signed by the key that signs access tokens, under another `typ`."""

    def __init__(self, issuer: str, keys: SigningKeys) -> None:
        self._issuer = issuer
        self._keys = keys

    def get_client_algorithm(self, client: RegisteredClient) -> str:
        return ALGORITHM

    def get_encode_header(self, client: RegisteredClient) -> dict[str, str]:
        # Told apart from every other token (RFC 8725, section 3.11).
        return {"alg": ALGORITHM, "typ": "JWT"}

    def resolve_client_private_key(self, client: RegisteredClient) -> KeySet:
        return self._keys.signing()

    def get_client_claims(self, client: RegisteredClient) -> dict[str, Any]:
        ends = int(time.time() + TOKEN_LIFE.total_seconds())
        return {"iss": self._issuer, "aud": client.get_client_id(), "exp": ends}

    def generate_user_info(self, user: Member, scope: str) -> Mapping[str, str]:
        return {"sub": user.get_user_id()}


def metadata(about: Mapping[str, Any]) -> dict[str, Any]:
    """What the server says of itself as an OpenID provider (OpenID Connect Discovery 1.0, section 3).

    Its keys are P-256 keys alone, so RS256, which the standard would have every provider know, is not among them.
    """
    return {
        **about,
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [ALGORITHM],
        "claims_supported": ["iss", "sub", "aud", "exp", "iat", "auth_time", "nonce", "acr", "amr", "at_hash"],
        "claims_parameter_supported": False,
        "request_parameter_supported": False,
        "request_uri_parameter_supported": False,
    }
