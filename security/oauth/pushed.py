"""Pushed authorization requests (RFC 9126): the client sends its request itself, the browser carries a name for it."""

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import InvalidRequestError

from security.oauth.domain import PUSHED_LIFE
from security.oauth.grants import Server
from security.oauth.protocol import Answer, Request
from security.oauth.refresh import ANYBODY

PREFIX: Final = "urn:ietf:params:oauth:request_uri:"
# What proves the client belongs to this request alone.
_PROOFS: Final = frozenset({"client_secret", "client_assertion", "client_assertion_type"})


def push(server: Server, asked: Request) -> Answer:
    """Keep a request that could be followed, and answer with its name."""
    try:
        client = server.authenticate_client(asked, ANYBODY, "pushed_authorization_request")
        asked.client = client
        parameters = {name: value for name, value in asked.payload.data.items() if name not in _PROOFS}
        if "request_uri" in parameters:
            raise InvalidRequestError("A pushed request names no other.")
        parameters["client_id"] = client.get_client_id()
        server.get_consent_grant(Request("GET", f"{server.issuer}/oauth/authorize", parameters, {}, asked.caller))
        name = secrets.token_urlsafe(32)
        server.waiting.push(name, client.get_client_id(), parameters, datetime.now(UTC) + PUSHED_LIFE)
    except OAuth2Error as error:
        # Never sent on to where the request would have it (RFC 9126, section 2.3).
        error.redirect_uri = None
        return server.handle_error_response(asked, error)
    body: dict[str, Any] = {"request_uri": PREFIX + name, "expires_in": int(PUSHED_LIFE.total_seconds())}
    return Answer(201, body)


def pushed_request(server: Server, parameters: Mapping[str, str]) -> dict[str, str]:
    """The parameters that `request_uri` names, once. InvalidRequestError for any other, or beside others."""
    name = parameters["request_uri"]
    if parameters.keys() != {"request_uri", "client_id"} or not name.startswith(PREFIX):
        raise InvalidRequestError("A pushed request is asked for with 'client_id' and 'request_uri' alone.")
    found = server.waiting.take_pushed(name.removeprefix(PREFIX), parameters["client_id"], datetime.now(UTC))
    if found is None:
        raise InvalidRequestError("The pushed request is not known, or not any more.")
    return found
