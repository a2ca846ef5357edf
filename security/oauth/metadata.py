"""What the authorization server says of itself (RFC 8414); as an OpenID provider it says more (openid.py)."""

from typing import Any

from security.oauth.device import DEVICE_CODE
from security.oauth.refresh import ANYBODY, PROVEN
from security.tokens.admission import STEP_UP_CONTEXT


def metadata(issuer: str, scopes: frozenset[str]) -> dict[str, Any]:
    """Everything that a client needs to find and to choose."""
    algorithms = ["ES256"]
    return {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/oauth/authorize",
        "token_endpoint": f"{issuer}/oauth/token",
        "token_endpoint_auth_methods_supported": list(ANYBODY),
        "token_endpoint_auth_signing_alg_values_supported": algorithms,
        "revocation_endpoint": f"{issuer}/oauth/revoke",
        "revocation_endpoint_auth_methods_supported": list(ANYBODY),
        "revocation_endpoint_auth_signing_alg_values_supported": algorithms,
        "introspection_endpoint": f"{issuer}/oauth/introspect",
        "introspection_endpoint_auth_methods_supported": list(PROVEN),
        "introspection_endpoint_auth_signing_alg_values_supported": algorithms,
        "pushed_authorization_request_endpoint": f"{issuer}/oauth/par",
        "device_authorization_endpoint": f"{issuer}/oauth/device_authorization",
        "ui_locales_supported": ["en", "zh"],
        "acr_values_supported": [STEP_UP_CONTEXT],
        "prompt_values_supported": ["none", "login", "consent"],
        "jwks_uri": f"{issuer}/oauth/jwks.json",
        "scopes_supported": sorted(scopes),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "client_credentials", "refresh_token", DEVICE_CODE],
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": True,
        "dpop_signing_alg_values_supported": algorithms,
        "tls_client_certificate_bound_access_tokens": True,
        "protected_resources": [issuer],
    }
