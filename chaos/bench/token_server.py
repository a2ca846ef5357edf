"""Authlib's authorization server as it comes, for the token endpoint to be measured against.

    granian --interface asgi --factory chaos.bench.token_server:app

One client in memory, client credentials by private_key_jwt, access tokens of RFC 9068 signed with ES256. Neither tokens
nor used assertions are stored, and nothing is on record. The client's public keys are the file ISTHMUS_BENCH_JWKS, the
server's name ISTHMUS_BENCH_ISSUER.
"""

import json
import os
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl

from authlib.oauth2 import AuthorizationServer, OAuth2Request
from authlib.oauth2.rfc6749 import ClientMixin
from authlib.oauth2.rfc6749.grants import ClientCredentialsGrant
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc7523 import JWTBearerClientAssertion
from authlib.oauth2.rfc9068 import JWTBearerTokenGenerator
from joserfc.jwk import ECKey, KeySet
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

METHOD: Final = "private_key_jwt"
PATH: Final = "/oauth/token"


class _Request(OAuth2Request):  # type: ignore[misc]
    def __init__(self, uri: str, form: dict[str, str]) -> None:
        super().__init__("POST", uri)
        self.payload = BasicOAuth2Payload(form)

    @property
    def form(self) -> dict[str, str]:
        return dict(self.payload.data)


class _Client(ClientMixin):  # type: ignore[misc]
    def get_client_id(self) -> str:
        return "storefront"

    def get_allowed_scope(self, scope: str | None) -> str:
        return scope or ""

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method == METHOD

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == "client_credentials"


class _Grant(ClientCredentialsGrant):  # type: ignore[misc]
    TOKEN_ENDPOINT_AUTH_METHODS = (METHOD,)


class _Assertion(JWTBearerClientAssertion):  # type: ignore[misc]
    CLIENT_AUTH_METHOD = METHOD

    def __init__(self, issuer: str, keys: KeySet) -> None:
        super().__init__(leeway=5)
        self._audiences = [issuer, f"{issuer}{PATH}"]
        self._keys = keys

    def get_audiences(self) -> list[str]:
        return self._audiences

    def validate_jti(self, claims: Any, jti: object) -> bool:
        return True

    def resolve_client_public_key(self, client: _Client) -> KeySet:
        return self._keys


class _Tokens(JWTBearerTokenGenerator):  # type: ignore[misc]
    def __init__(self, issuer: str) -> None:
        super().__init__(issuer, alg="ES256")
        self._keys = KeySet([ECKey.generate_key("P-256", {"kid": "1", "use": "sig", "alg": "ES256"})])

    def get_jwks(self) -> KeySet:
        return self._keys


class _Server(AuthorizationServer):  # type: ignore[misc]
    def __init__(self, client: _Client) -> None:
        super().__init__()
        self._client = client

    def query_client(self, client_id: str) -> _Client | None:
        return self._client if client_id == self._client.get_client_id() else None

    def save_token(self, token: dict[str, Any], request: OAuth2Request) -> None:
        """Nowhere."""

    def create_oauth2_request(self, request: OAuth2Request) -> OAuth2Request:
        return request

    def handle_response(self, status: int, body: Any, headers: Any) -> Response:
        return JSONResponse(body, status, dict(headers))

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        """To nobody."""


def app() -> Starlette:
    """The server, as its environment says."""
    issuer = os.environ["ISTHMUS_BENCH_ISSUER"]
    keys = KeySet.import_key_set(json.loads(Path(os.environ["ISTHMUS_BENCH_JWKS"]).read_text()))
    server = _Server(_Client())
    server.register_client_auth_method(METHOD, _Assertion(issuer, keys))
    server.register_grant(_Grant)
    server.register_token_generator("default", _Tokens(issuer))

    async def token(request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode()))
        answer: Response = server.create_token_response(_Request(f"{issuer}{PATH}", form))
        return answer

    return Starlette(routes=[Route(PATH, token, methods=["POST"])])
