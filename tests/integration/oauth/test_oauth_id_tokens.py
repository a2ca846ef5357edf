"""The server as an OpenID provider: what an ID token says, to whom, and what it is good for."""

import base64
import hashlib
import json
import secrets
import time
from typing import Any

import pytest

from security.oauth.federation.id_token import Expected, person, public_keys
from security.oauth.federation.port import NotProvenError, Wanted
from tests.integration.oauth.authorization_servers import ISSUER, Deployment
from tests.integration.oauth.browser import Browser

pytestmark = pytest.mark.usefixtures("member")
NONCE = secrets.token_urlsafe(24)


def signed_in(deployment: Deployment, scope: str = "openid orders.read") -> Any:
    """The answer to a code."""
    browser = Browser(deployment)
    browser.request |= {"scope": scope, "nonce": NONCE}
    reply = browser.redeem(browser.code(), replica=1)
    assert reply.status == 200, reply.body
    return reply.json


def part(token: str, number: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(token.split(".")[number] + "=="))
    return found


def test_an_id_token_tells_one_client_who_signed_in(deployment: Deployment, member: str) -> None:
    given = signed_in(deployment)
    keys = public_keys(deployment.call("GET", "/oauth/jwks.json").json)
    now = int(time.time())
    proven = person(given["id_token"], keys, Expected(ISSUER, "shop-web", NONCE), Wanted(now, 60), now)
    assert (proven.authority, proven.subject) == (ISSUER, member)
    with pytest.raises(NotProvenError, match="ID_TOKEN_AUDIENCE"):
        person(given["id_token"], keys, Expected(ISSUER, "sandbox", NONCE), Wanted(now), now)
    said, header = part(given["id_token"], 1), part(given["id_token"], 0)
    half = hashlib.sha256(given["access_token"].encode()).digest()[:16]
    assert said["at_hash"] == base64.urlsafe_b64encode(half).rstrip(b"=").decode()
    assert (said["amr"], "acr" in said, said["exp"] - said["iat"]) == (["pwd"], False, 600)
    assert (header["alg"], header["typ"]) == ("ES256", "JWT")
    # Nothing else of a member.
    assert said.keys() == {"iss", "sub", "aud", "exp", "iat", "auth_time", "nonce", "amr", "at_hash"}


def test_an_id_token_is_no_access_token(deployment: Deployment) -> None:
    token = signed_in(deployment)["id_token"]
    form = {"client_id": "sandbox", "client_secret": deployment.secret, "token": token}
    assert deployment.call("POST", "/oauth/introspect", form=form).json == {"active": False}
    # Not even to who forgets to look at what it is for: it is of another type than every access token.
    assert part(signed_in(deployment)["access_token"], 0)["typ"] == "at+jwt"


def test_who_does_not_ask_for_an_id_token_gets_none_and_a_refresh_brings_none(deployment: Deployment) -> None:
    assert "id_token" not in signed_in(deployment, "orders.read")
    first = signed_in(deployment)
    form = {"grant_type": "refresh_token", "client_id": "shop-web", "refresh_token": first["refresh_token"]}
    refreshed = deployment.call("POST", "/oauth/token", form=form).json
    assert "openid" in refreshed["scope"].split()
    assert "id_token" not in refreshed


def test_discovery_says_what_the_server_s_own_metadata_says(deployment: Deployment) -> None:
    found = deployment.call("GET", "/.well-known/openid-configuration", replica=1).json
    assert found["issuer"] == ISSUER
    assert found["id_token_signing_alg_values_supported"] == ["ES256"]
    assert found["subject_types_supported"] == ["public"]
    assert "openid" in found["scopes_supported"]
    about = deployment.call("GET", "/.well-known/oauth-authorization-server").json
    assert about.items() <= found.items()
