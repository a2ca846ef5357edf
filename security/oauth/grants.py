"""Authlib's protocol core with its lenient defaults overridden (RFC 9700, OAuth 2.1).

PKCE with S256 alone and always; tokens of ten minutes for one audience; unknown scopes refused; codes taken out of the
table before anything else is checked, so that none is ever redeemed twice.
"""

import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from authlib.oauth2 import AuthorizationServer, OAuth2Error
from authlib.oauth2.rfc6749 import (
    InvalidClientError,
    InvalidGrantError,
    InvalidRequestError,
    InvalidScopeError,
    grants,
)
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc9068 import JWTBearerTokenGenerator
from joserfc.jwk import KeySet

from mesh.logs import logger
from security.audit.record import AuditRecord
from security.oauth.client_authentication import SignedAssertion, certificate
from security.oauth.device import DeviceAuthorization, DeviceCode
from security.oauth.domain import (
    CHALLENGE_S256,
    CLIENT_ID,
    CODE_LIFE,
    FAMILY_LIFE,
    TOKEN_LIFE,
    Code,
    Family,
)
from security.oauth.family_store import FamilyStore
from security.oauth.journal import Journal
from security.oauth.openid import IdTokens
from security.oauth.passwords import SecretChecker
from security.oauth.protocol import Answer, Member, RedeemedCode, RegisteredClient, Request
from security.oauth.refresh import ANYBODY, PROVEN, Introspection, ReadToken, Refresh, Revocation
from security.oauth.signing import SigningKeys
from security.oauth.store import Store
from security.oauth.waiting_store import WaitingStore

log = logger("oauth")


class Server(AuthorizationServer):  # type: ignore[misc]
    """The authorization server. Synchronous: every call may wait for PostgreSQL or for a hash."""

    def __init__(
        self,
        store: Store,
        families: FamilyStore,
        waiting: WaitingStore,
        secrets_: SecretChecker,
        issuer: str,
        audience: str,
        keys: SigningKeys,
        journal: Journal,
        read_token: ReadToken,
    ) -> None:
        super().__init__()
        self.store = store
        self.families = families
        self.waiting = waiting
        self.issuer = issuer
        self.read_token = read_token
        self._journal = journal
        self._secrets = secrets_
        self.register_token_generator("default", TokenGenerator(issuer, audience, keys))
        self.register_grant(ClientCredentials)
        self.register_grant(AuthorizationCode, [RequiredS256(), IdTokens(issuer, keys)])
        self.register_grant(Refresh)
        self.register_grant(DeviceCode)
        self.register_endpoint(DeviceAuthorization)
        self.register_endpoint(Revocation)
        self.register_endpoint(Introspection)
        self.register_client_auth_method("private_key_jwt", SignedAssertion(issuer, families.use_proof))
        self.register_client_auth_method("tls_client_auth", certificate)

    def authenticate_client(
        self, request: Request, methods: Sequence[str], endpoint: str = "token"
    ) -> RegisteredClient:
        """As Authlib does it; what the request has proven besides is what the client's tokens will be bound to."""
        client: RegisteredClient = super().authenticate_client(request, methods, endpoint)
        if request.key_thumbprint is not None:
            client.confirmation["jkt"] = request.key_thumbprint
        if endpoint == "token" and client.registered.bound and not client.confirmation:
            raise InvalidRequestError("The tokens of this client are bound to a key: send a DPoP proof.")
        return client

    def query_client(self, client_id: str) -> RegisteredClient | None:
        if not CLIENT_ID.fullmatch(client_id):
            return None
        client = self.store.client(client_id)
        return None if client is None else RegisteredClient(client, self._secrets)

    def member(self, family: Family) -> Member:
        return Member(family.member_id, family.signed_in_at, family.family_id, family.context, family.methods)

    def save_token(self, token: Mapping[str, Any], request: Request) -> None:
        """Put on record that a token is issued, with its family if there is one, before it leaves."""
        record = self.issued(token, request)
        if request.user is None:
            self.families.write(record)
            return
        now = datetime.now(UTC)
        family = Family(
            family_id=request.user.family_id,
            client_id=request.client.get_client_id(),
            member_id=request.user.member_id,
            scope=token.get("scope", ""),
            signed_in_at=request.user.signed_in_at,
            expires_at=now + FAMILY_LIFE,
            key_thumbprint=request.client.confirmation.get("jkt"),
            context=request.user.context,
            methods=request.user.methods,
        )
        if not self.families.begin(family, token.get("refresh_token"), now, record):
            raise InvalidGrantError("The code was redeemed before.")

    def issued(self, token: Mapping[str, Any], request: Request) -> AuditRecord:
        """The record of an issue."""
        client_id = request.client.get_client_id()
        subject = request.user.get_user_id() if request.user else client_id
        grant = request.payload.grant_type
        log.info("token_issued", client_id=client_id, grant=grant, subject=subject, scope=token.get("scope", ""))
        return self._journal.record("IssueToken", request.caller, subject=subject, client=client_id, detail=grant)

    def noted(self, event: str, request: Request, subject: str) -> AuditRecord:
        """The record of what a client had done to a member's tokens."""
        client_id = request.client.get_client_id()
        log.info("member_tokens", client_id=client_id, event_name=event, subject=subject)
        return self._journal.record(event, request.caller, client=client_id, data_subject=subject)

    def device_decided(self, request: Request, member_id: str | None) -> AuditRecord:
        """The record of what a person decided about a device."""
        client_id = request.payload.client_id or ""
        if member_id is None:
            return self._journal.record("DenyDevice", request.caller, client=client_id)
        return self._journal.record("AllowDevice", request.caller, client=client_id, data_subject=member_id)

    def refused(self, event: str, request: Request, reason: str, subject: str = "") -> AuditRecord:
        """The record of a refusal."""
        client_id = request.client.get_client_id() if request.client else request.payload.client_id or ""
        record = self._journal.record(
            event, request.caller, subject=subject, client=client_id, detail=reason, refused=True
        )
        log.warning("request_refused", client_id=record.token_client, event_name=event, reason=reason)
        return record

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Nobody listens."""

    def create_oauth2_request(self, request: Request) -> Request:
        return request

    def handle_error_response(self, request: Request, error: OAuth2Error) -> Answer:
        if isinstance(error, InvalidClientError):
            client_id = self._journal.named(request.payload.client_id or "")
            log.warning("client_not_authenticated", client_id=client_id, rule=error.description or "")
            # One answer for an unknown client, a wrong secret and a wrong method: nobody learns which clients exist.
            error = InvalidClientError(status_code=401, description="The client cannot be authenticated.")
        answer: Answer = super().handle_error_response(request, error)
        return answer

    def handle_response(self, status: int, body: Any, headers: Any) -> Answer:
        return Answer(status, body, list(headers or ()))


class TokenGenerator(JWTBearerTokenGenerator):  # type: ignore[misc]
    """Access tokens of RFC 9068, signed with ES256."""

    def __init__(self, issuer: str, audience: str, keys: SigningKeys) -> None:
        super().__init__(
            issuer,
            alg="ES256",
            refresh_token_generator=lambda **_: secrets.token_urlsafe(32),
            expires_generator=lambda *_: int(TOKEN_LIFE.total_seconds()),
        )
        self._audience = audience
        self._keys = keys

    def generate(self, grant_type: str, client: RegisteredClient, *rest: Any, **named: Any) -> dict[str, Any]:
        token: dict[str, Any] = super().generate(grant_type, client, *rest, **named)
        if "jkt" in client.confirmation:
            token["token_type"] = "DPoP"  # noqa: S105 (the name of a type)
        return token

    def get_jwks(self) -> KeySet:
        return self._keys.signing()

    def get_audiences(self, client: RegisteredClient, user: Member | None, scope: str) -> str:
        return self._audience

    def get_extra_claims(
        self, client: RegisteredClient, grant_type: str, user: Member | None, scope: str
    ) -> dict[str, Any]:
        extra: dict[str, Any] = {}
        if user is not None:
            extra["sid"] = user.family_id
        if client.confirmation:
            extra["cnf"] = dict(client.confirmation)
        return extra

    def get_acr(self, user: Member | None) -> str | None:
        return user.context or None if user is not None else None

    def get_amr(self, user: Member | None) -> list[str] | None:
        return None if user is None else user.methods.split()

    def get_auth_time(self, user: Member | None) -> int | None:
        return None if user is None else int(user.signed_in_at.timestamp())


class ClientCredentials(grants.ClientCredentialsGrant):  # type: ignore[misc]
    """RFC 6749, section 4.4: a program in its own name."""

    TOKEN_ENDPOINT_AUTH_METHODS = PROVEN

    def validate_requested_scope(self) -> None:
        _refuse_foreign_scope(self.request.client, self.request.payload.scope)


class AuthorizationCode(grants.AuthorizationCodeGrant):  # type: ignore[misc]
    """RFC 6749, section 4.1: a program in the name of a member who signed in here."""

    TOKEN_ENDPOINT_AUTH_METHODS = ANYBODY

    def generate_authorization_code(self) -> str:
        return secrets.token_urlsafe(32)

    def validate_requested_scope(self) -> None:
        _refuse_foreign_scope(self.request.client, self.request.payload.scope)

    def save_authorization_code(self, code: str, request: Request) -> None:
        user = request.user
        granted = Code(
            client_id=request.client.get_client_id(),
            member_id=user.member_id,
            redirect_uri=request.payload.redirect_uri,
            scope=request.scope,
            challenge=request.payload.data["code_challenge"],
            signed_in_at=user.signed_in_at,
            expires_at=datetime.now(UTC) + CODE_LIFE,
            family_id=user.family_id,
            context=user.context,
            methods=user.methods,
            nonce=request.payload.data.get("nonce", ""),
        )
        self.server.store.add_code(code, granted, self.server.noted("GiveCode", request, user.member_id))

    def query_authorization_code(self, code: str, client: RegisteredClient) -> RedeemedCode | None:
        now = datetime.now(UTC)
        found, replayed = self.server.store.take_code(code, client.get_client_id(), now)
        if found is None:
            return None
        if replayed:
            # RFC 6749, section 4.1.2: whoever was first may not have been the one it was meant for.
            self.request.client = client
            record = self.server.refused("ReplayCode", self.request, "CODE_REPLAYED", found.member_id)
            self.server.families.end(found.family_id, now, record)
            return None
        return RedeemedCode(found)

    def delete_authorization_code(self, authorization_code: RedeemedCode) -> None:
        """It was taken out when it was found."""

    def authenticate_user(self, authorization_code: RedeemedCode) -> Member:
        code = authorization_code.code
        return Member(code.member_id, code.signed_in_at, code.family_id, code.context, code.methods)


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
