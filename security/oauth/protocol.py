"""Our requests, clients, members and codes in the shape in which Authlib's protocol core asks about them."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from authlib.oauth2 import OAuth2Request
from authlib.oauth2.rfc6749 import ClientMixin, OAuth2Payload
from authlib.oidc.core import AuthorizationCodeMixin

from security.oauth.domain import BY_PASSWORD, Authentication, Client, Code, Session
from security.oauth.journal import Caller
from security.oauth.passwords import SecretChecker

CLIENT_CREDENTIALS = "client_credentials"
AUTHORIZATION_CODE = "authorization_code"
REFRESH_TOKEN = "refresh_token"  # noqa: S105 (the name of a grant)


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

    def __init__(
        self,
        method: str,
        uri: str,
        parameters: Mapping[str, str],
        headers: Mapping[str, str],
        caller: Caller | None = None,
    ) -> None:
        super().__init__(method, uri, headers=headers)
        self.caller = caller or Caller()
        # Thumbprint of the key that the request has proven (RFC 9449), if it has.
        self.key_thumbprint: str | None = None
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
        # What this request has shown that its tokens can be bound to (RFC 7800). A client object lives for one request.
        self.confirmation: dict[str, str] = {}

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
        return method in _METHODS[self.registered.authentication]

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code" and self.check_grant_type(AUTHORIZATION_CODE)

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in self.registered.grants


_METHODS = {
    Authentication.NONE: ("none",),
    Authentication.CLIENT_SECRET: ("client_secret_basic", "client_secret_post"),
    Authentication.PRIVATE_KEY_JWT: ("private_key_jwt",),
    Authentication.TLS: ("tls_client_auth",),
}


@dataclass(frozen=True)
class Member:
    """Who signed in, as Authlib asks about the resource owner."""

    member_id: str
    signed_in_at: datetime
    # Of the tokens that this consent brings about.
    family_id: str
    # What the sign-in amounts to, "" for a password alone; and by which methods it was made.
    context: str = ""
    methods: str = BY_PASSWORD

    @classmethod
    def of(cls, session: Session) -> "Member":
        """For a consent that is given in this session."""
        family_id = secrets.token_urlsafe(16)
        return cls(session.member_id, session.signed_in_at, family_id, session.context, session.methods)

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

    def get_nonce(self) -> str:
        return self.code.nonce

    def get_auth_time(self) -> int:
        return int(self.code.signed_in_at.timestamp())

    def get_acr(self) -> str:
        return self.code.context

    def get_amr(self) -> list[str]:
        return self.code.methods.split()
