"""Authlib's protocol core with its lenient defaults overridden (RFC 9700, OAuth 2.1).

PKCE with S256 alone and always; tokens of ten minutes for one audience; unknown scopes refused; codes taken out of the
table before anything else is checked, so that none is ever redeemed twice.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from authlib.oauth2 import AuthorizationServer, OAuth2Error, OAuth2Request
from authlib.oauth2.rfc6749 import (
    AuthorizationCodeMixin,
    ClientMixin,
    InvalidClientError,
    InvalidRequestError,
    InvalidScopeError,
    OAuth2Payload,
    grants,
)
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc9068 import JWTBearerTokenGenerator
from joserfc.jwk import ECKey, KeySet

from mesh.logs import logger
from security.oauth.domain import CHALLENGE_S256, CLIENT_ID, CODE_LIFE, TOKEN_LIFE, Client, Code
from security.oauth.passwords import SecretChecker
from security.oauth.signing import SigningKeys
from security.oauth.store import Store

log = logger("oauth")

CLIENT_CREDENTIALS = "client_credentials"
AUTHORIZATION_CODE = "authorization_code"


@dataclass(frozen=True)
class Answer:
    """What Authlib wants to answer: a status, a JSON object or an empty string, and headers."""

    status: int
    body: Mapping[str, Any] | str
    headers: list[tuple[str, str]] = field(default_factory=list)

    @property
    def location(self) -> str | None:
        return next((value for name, value in self.headers if name == "Location"), None)


class Payload(OAuth2Payload):  # type: ignore[misc]
    """Parameters that have already been checked to appear once each."""

    def __init__(self, parameters: Mapping[str, str]) -> None:
        self._parameters = dict(parameters)

    @property
    def data(self) -> dict[str, str]:
        return self._parameters

    @property
    def datalist(self) -> dict[str, list[str]]:
        return {name: [value] for name, value in self._parameters.items()}


class Request(OAuth2Request):  # type: ignore[misc]
    """An authorization request (parameters from the query) or a token request (from the form)."""

    def __init__(self, method: str, uri: str, parameters: Mapping[str, str], headers: Mapping[str, str]) -> None:
        super().__init__(method, uri, headers=headers)
        self.payload = Payload(parameters)

    @property
    def form(self) -> dict[str, str]:
        return dict(self.payload.data)

    @property
    def args(self) -> dict[str, str]:
        return dict(self.payload.data)


class RegisteredClient(ClientMixin):  # type: ignore[misc]
    """A client of ours as Authlib asks about it."""

    def __init__(self, client: Client, secrets_: SecretChecker) -> None:
        self.registered = client
        self._secrets = secrets_

    def get_client_id(self) -> str:
        return self.registered.client_id

    def get_default_redirect_uri(self) -> None:
        # The request must always say where to go.
        return None

    def get_allowed_scope(self, scope: str | None) -> str | None:
        scopes = self.registered.granted(scope)
        return None if scopes is None else " ".join(sorted(scopes))

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return self.registered.may_redirect_to(redirect_uri)

    def check_client_secret(self, client_secret: str) -> bool:
        stored = self.registered.secret_hash
        return stored is not None and self._secrets.check(stored, client_secret)

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        # A client with a secret must show it; one without has none to show.
        return (method == "none") == (self.registered.secret_hash is None)

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code" and self.check_grant_type(AUTHORIZATION_CODE)

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in self.registered.grants


@dataclass(frozen=True)
class Member:
    """Who signed in, as Authlib asks about the resource owner."""

    member_id: str
    signed_in_at: datetime

    def get_user_id(self) -> str:
        return self.member_id


class RedeemedCode(AuthorizationCodeMixin):  # type: ignore[misc]
    """A code that has just been taken out of the table."""

    code_challenge_method = "S256"

    def __init__(self, code: Code) -> None:
        self.code = code
        self.code_challenge = code.challenge

    def get_redirect_uri(self) -> str:
        return self.code.redirect_uri

    def get_scope(self) -> str:
        return self.code.scope


class Server(AuthorizationServer):  # type: ignore[misc]
    """The authorization server. Synchronous: every call may wait for PostgreSQL or for a hash."""

    def __init__(self, store: Store, secrets_: SecretChecker, issuer: str, audience: str, keys: SigningKeys) -> None:
        super().__init__()
        self.store = store
        self._secrets = secrets_
        self.register_token_generator("default", TokenGenerator(issuer, audience, keys))
        self.register_grant(ClientCredentials)
        self.register_grant(AuthorizationCode, [RequiredS256()])

    def query_client(self, client_id: str) -> RegisteredClient | None:
        if not CLIENT_ID.fullmatch(client_id):
            return None
        client = self.store.client(client_id)
        return None if client is None else RegisteredClient(client, self._secrets)

    def save_token(self, token: Mapping[str, Any], request: Request) -> None:
        """Tokens are not stored; that one was issued is logged."""
        log.info(
            "token_issued",
            client_id=request.client.get_client_id(),
            grant=request.payload.grant_type,
            subject=request.user.get_user_id() if request.user else request.client.get_client_id(),
            scope=token.get("scope", ""),
        )

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Nobody listens."""

    def create_oauth2_request(self, request: Request) -> Request:
        return request

    def handle_error_response(self, request: Request, error: OAuth2Error) -> Answer:
        if isinstance(error, InvalidClientError):
            # One answer for an unknown client, a wrong secret and a wrong method: nobody learns which clients exist.
            error = InvalidClientError(status_code=401, description="The client cannot be authenticated.")
        answer: Answer = super().handle_error_response(request, error)
        return answer

    def handle_response(self, status: int, body: Any, headers: Any) -> Answer:
        return Answer(status, body, list(headers or ()))


class TokenGenerator(JWTBearerTokenGenerator):  # type: ignore[misc]
    """Access tokens of RFC 9068, signed with ES256."""

    def __init__(self, issuer: str, audience: str, keys: SigningKeys) -> None:
        super().__init__(issuer, alg="ES256", expires_generator=lambda *_: int(TOKEN_LIFE.total_seconds()))
        self._audience = audience
        self._keys = keys

    def get_jwks(self) -> KeySet:
        key = self._keys.current()
        # In a set, so that the key's id gets into the header.
        return KeySet([ECKey.import_key(key.private_pem, {"kid": key.dates.kid, "alg": "ES256", "use": "sig"})])

    def get_audiences(self, client: RegisteredClient, user: Member | None, scope: str) -> str:
        return self._audience

    def get_auth_time(self, user: Member | None) -> int | None:
        return None if user is None else int(user.signed_in_at.timestamp())


class ClientCredentials(grants.ClientCredentialsGrant):  # type: ignore[misc]
    """RFC 6749, section 4.4: a program in its own name."""

    TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic", "client_secret_post")

    def validate_requested_scope(self) -> None:
        _refuse_foreign_scope(self.request.client, self.request.payload.scope)


class AuthorizationCode(grants.AuthorizationCodeGrant):  # type: ignore[misc]
    """RFC 6749, section 4.1: a program in the name of a member who signed in here."""

    TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic", "client_secret_post", "none")

    def generate_authorization_code(self) -> str:
        return secrets.token_urlsafe(32)

    def validate_requested_scope(self) -> None:
        _refuse_foreign_scope(self.request.client, self.request.payload.scope)

    def save_authorization_code(self, code: str, request: Request) -> None:
        self.server.store.add_code(
            code,
            Code(
                client_id=request.client.get_client_id(),
                member_id=request.user.member_id,
                redirect_uri=request.payload.redirect_uri,
                scope=request.scope,
                challenge=request.payload.data["code_challenge"],
                signed_in_at=request.user.signed_in_at,
                expires_at=request.user.signed_in_at + CODE_LIFE,
            ),
        )

    def query_authorization_code(self, code: str, client: RegisteredClient) -> RedeemedCode | None:
        found = self.server.store.take_code(code, client.get_client_id(), datetime.now(UTC))
        return None if found is None else RedeemedCode(found)

    def delete_authorization_code(self, authorization_code: RedeemedCode) -> None:
        """It was taken out when it was found."""

    def authenticate_user(self, authorization_code: RedeemedCode) -> Member:
        return Member(authorization_code.code.member_id, authorization_code.code.signed_in_at)


class RequiredS256(CodeChallenge):  # type: ignore[misc]
    """PKCE (RFC 7636) with S256, from every client, in every request."""

    DEFAULT_CODE_CHALLENGE_METHOD = "S256"
    SUPPORTED_CODE_CHALLENGE_METHOD = ("S256",)

    def validate_code_challenge(self, grant: AuthorizationCode, redirect_uri: str) -> None:
        parameters = grant.request.payload.data
        if parameters.get("code_challenge_method") != "S256":
            raise InvalidRequestError("The 'code_challenge_method' must be S256.")
        if not CHALLENGE_S256.fullmatch(parameters.get("code_challenge", "")):
            raise InvalidRequestError("The 'code_challenge' must be 43 characters of base64url.")


def _refuse_foreign_scope(client: RegisteredClient, scope: str | None) -> None:
    if client.registered.granted(scope) is None:
        raise InvalidScopeError()
