"""Refresh tokens that are used up by their use (RFC 9700, section 4.14), their revocation and introspection."""

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from authlib.oauth2.rfc6749 import InvalidGrantError
from authlib.oauth2.rfc6749.grants import RefreshTokenGrant
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7662 import IntrospectionEndpoint

from mesh.call import Claims
from mesh.errors import MeshError
from security.keys.aead import NONCE_BYTES, Aead
from security.oauth.domain import Family, RefreshUse
from security.oauth.family_store import Shown

PROVEN: Final = ("client_secret_basic", "client_secret_post", "private_key_jwt", "tls_client_auth")
ANYBODY: Final = (*PROVEN, "none")

# The claims of a good access token, or MeshError.
ReadToken = Callable[[str], Claims]


def seal(token: str, answer: Mapping[str, Any]) -> bytes:
    """An answer that only who holds `token` can open."""
    nonce, sealed = Aead(_sealing_key(token)).seal(json.dumps(answer).encode(), b"")
    return nonce + sealed


def unseal(token: str, sealed: bytes) -> dict[str, Any]:
    """The answer sealed under `token`."""
    opened = Aead(_sealing_key(token)).open(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], b"")
    answer: dict[str, Any] = json.loads(opened)
    return answer


def _sealing_key(token: str) -> bytes:
    # The token is 32 random bytes, and its plain SHA-256 lies beside what is sealed: another domain, another key.
    return hashlib.sha256(b"isthmus refresh answer\0" + token.encode()).digest()


class RefreshToken:
    """A refresh token as Authlib asks about it."""

    def __init__(self, shown: Shown, text: str) -> None:
        self.family: Family = shown.family
        self.live = shown.live
        self.text = text

    def check_client(self, client: Any) -> bool:
        return bool(client.get_client_id() == self.family.client_id)

    def get_scope(self) -> str:
        return self.family.scope

    def is_expired(self) -> bool:
        return not self.live

    def is_revoked(self) -> bool:
        return not self.live


class Refresh(RefreshTokenGrant):  # type: ignore[misc]
    """RFC 6749, section 6: one use, a new token for it, and the end of the family for whoever uses it again."""

    TOKEN_ENDPOINT_AUTH_METHODS = ANYBODY

    def authenticate_refresh_token(self, refresh_token: str) -> RefreshToken | None:
        shown = self.server.families.find(refresh_token, datetime.now(UTC))
        return None if shown is None else RefreshToken(shown, refresh_token)

    def create_token_response(self) -> tuple[int, dict[str, Any], Any]:
        server, shown = self.server, self.request.refresh_token
        family = shown.family
        self.request.user = server.member(family)
        if family.key_thumbprint != self.request.client.confirmation.get("jkt"):
            raise InvalidGrantError("The refresh token is bound to another key.")
        # Made by everybody who shows the token, kept of one: no lock is held while a token is signed.
        answer = self.issue_token(self.request.user, shown)
        answer["refresh_token"] = successor = secrets.token_urlsafe(32)
        rotation = server.families.rotate(
            shown.text,
            successor,
            seal(shown.text, answer),
            datetime.now(UTC),
            lambda _: server.issued(answer, self.request),
            lambda _: server.refused("ReuseRefreshToken", self.request, "REFRESH_REUSED", family.member_id),
        )
        if rotation.use is RefreshUse.REPEATED and rotation.answer is not None:
            answer = unseal(shown.text, rotation.answer)
        elif rotation.use is not RefreshUse.ROTATED:
            raise InvalidGrantError("The refresh token is not good any more.")
        return 200, answer, self.TOKEN_RESPONSE_HEADER


class AccessToken:
    """An access token that verified, as Authlib asks about it."""

    def __init__(self, claims: Claims) -> None:
        self.claims = claims

    def check_client(self, client: Any) -> bool:
        return bool(client.get_client_id() == self.claims.client_id)

    def is_expired(self) -> bool:
        # It would not have verified.
        return False

    def is_revoked(self) -> bool:
        return False


def _found(server: Any, text: str) -> RefreshToken | AccessToken | None:
    """Whichever token this is; its form tells, so no hint is needed (RFC 7009, section 2.1)."""
    if "." not in text:
        shown = server.families.find(text, datetime.now(UTC))
        return None if shown is None else RefreshToken(shown, text)
    try:
        return AccessToken(server.read_token(text))
    except MeshError:
        return None


class Revocation(RevocationEndpoint):  # type: ignore[misc]
    """RFC 7009. A refresh token takes its whole family along, an access token goes alone."""

    CLIENT_AUTH_METHODS = ANYBODY

    def query_token(self, token_string: str, token_type_hint: str | None) -> RefreshToken | AccessToken | None:
        return _found(self.server, token_string)

    def revoke_token(self, token: RefreshToken | AccessToken, request: Any) -> None:
        now = datetime.now(UTC)
        families = self.server.families
        if isinstance(token, RefreshToken):
            family = token.family
            families.end(family.family_id, now, self.server.noted("RevokeFamily", request, family.member_id))
        else:
            claims = token.claims
            until = datetime.fromtimestamp(claims.expires, UTC)
            record = self.server.noted("RevokeToken", request, claims.subject)
            families.revoke_token(claims.token_id, until, now, record)


class Introspection(IntrospectionEndpoint):  # type: ignore[misc]
    """RFC 7662, for clients that prove themselves, about their own tokens: others are not even said to be tokens."""

    CLIENT_AUTH_METHODS = PROVEN

    def query_token(self, token_string: str, token_type_hint: str | None) -> RefreshToken | AccessToken | None:
        return _found(self.server, token_string)

    def check_permission(self, token: RefreshToken | AccessToken, client: Any, request: Any) -> bool:
        return token.check_client(client)

    def introspect_token(self, token: RefreshToken | AccessToken) -> dict[str, Any]:
        if isinstance(token, RefreshToken):
            family = token.family
            return {"client_id": family.client_id, "sub": family.member_id, "scope": family.scope}
        claims = token.claims
        said: dict[str, Any] = {
            "token_type": "Bearer",
            "iss": self.server.issuer,
            "client_id": claims.client_id,
            "sub": claims.subject,
            "scope": " ".join(sorted(claims.scopes)),
            "exp": claims.expires,
            "iat": claims.issued,
            "jti": claims.token_id,
        }
        if claims.confirmation:
            said["cnf"] = dict(claims.confirmation)
        return said
