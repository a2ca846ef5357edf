"""Devices without a browser, and requests that are pushed before the browser is sent."""

import secrets
from typing import Any

import psycopg
import pytest

from tests.integration.oauth.authorization_servers import ISSUER, Deployment, Reply
from tests.integration.oauth.browser import Browser, returned
from tests.integration.room import plain

pytestmark = pytest.mark.usefixtures("member")
CLIENT = {"client_id": "isthmus-cli"}
GRANT = "urn:ietf:params:oauth:grant-type:device_code"


def begin(deployment: Deployment, **changes: str) -> Reply:
    return deployment.call("POST", "/oauth/device_authorization", form=CLIENT | {"scope": "orders.read"} | changes)


def poll(deployment: Deployment, code: str, replica: int = 0, **changes: str) -> Reply:
    form = CLIENT | {"grant_type": GRANT, "device_code": code} | changes
    return deployment.call("POST", "/oauth/token", form=form, replica=replica)


def decide(deployment: Deployment, user_code: str, **fields: str) -> Reply:
    browser = Browser(deployment)
    page = browser.keep(deployment.call("GET", f"/oauth/device?user_code={user_code}", replica=1))
    entered = browser.send(page, fields={"user_code": user_code} | fields)
    if b'value="allow"' not in entered.body:
        return entered
    return browser.send(entered, fields={"user_code": user_code, "decision": "allow"}, to=1)


def waiting(deployment: Deployment) -> Any:
    found = begin(deployment)
    assert found.status == 200, found.body
    return found.json


def rest(deployment: Deployment) -> None:
    """Let the interval of every device be over."""
    with psycopg.connect(plain(deployment.url)) as connection:
        connection.execute("UPDATE oauth.device_codes SET asked_at = asked_at - interval '1 minute'")


def test_a_person_elsewhere_decides_and_the_device_gets_its_token_once(deployment: Deployment) -> None:
    told = waiting(deployment)
    assert told["verification_uri"] == f"{ISSUER}/oauth/device"
    assert told["verification_uri_complete"].endswith(told["user_code"])
    assert poll(deployment, told["device_code"]).json["error"] == "authorization_pending"
    assert poll(deployment, told["device_code"], replica=1).json["error"] == "slow_down"
    # However a person writes it.
    assert decide(deployment, told["user_code"].lower().replace("-", "")).status == 200
    rest(deployment)
    given = poll(deployment, told["device_code"], replica=1)
    assert given.status == 200, given.body
    assert (given.json["scope"], "refresh_token" in given.json) == ("orders.read", True)
    assert poll(deployment, told["device_code"]).status == 400


def test_a_denial_is_told_to_the_device(deployment: Deployment) -> None:
    told = waiting(deployment)
    assert decide(deployment, told["user_code"], decision="deny").status == 200
    assert poll(deployment, told["device_code"]).json["error"] == "access_denied"


def test_nothing_is_decided_without_password_or_by_a_forged_form(deployment: Deployment) -> None:
    told = waiting(deployment)
    assert decide(deployment, told["user_code"], password="wrong").status == 403
    assert decide(deployment, told["user_code"], csrf="1.x").status == 403
    assert poll(deployment, told["device_code"]).json["error"] == "authorization_pending"
    unknown = deployment.call("GET", "/oauth/device?user_code=BBBB-BBBB")
    assert unknown.status == 403
    assert b'name="password"' not in unknown.body


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"client_id": "nobody"}, "invalid_client"),
        ({"client_id": "shop-web"}, "unauthorized_client"),
        ({"scope": "admin"}, "invalid_scope"),
    ],
)
def test_who_gets_no_device_code(deployment: Deployment, changes: dict[str, str], error: str) -> None:
    assert begin(deployment, **changes).json["error"] == error


def test_a_device_code_is_for_its_client_and_its_time(deployment: Deployment) -> None:
    told = waiting(deployment)
    assert poll(deployment, told["device_code"], client_id="shop-web").status == 400
    assert poll(deployment, secrets.token_urlsafe(32)).status == 400
    with psycopg.connect(plain(deployment.url)) as connection:
        connection.execute("UPDATE oauth.device_codes SET expires_at = now() - interval '1 s'")
    assert poll(deployment, told["device_code"]).json["error"] == "expired_token"


def test_a_pushed_request_is_followed_once_and_by_its_client(deployment: Deployment) -> None:
    browser = Browser(deployment)
    pushed = deployment.call("POST", "/oauth/par", form=browser.request)
    assert pushed.status == 201, pushed.body
    named = {"client_id": "shop-web", "request_uri": pushed.json["request_uri"]}
    for wrong in ({"client_id": "sandbox"}, {"scope": "orders.write"}, {"request_uri": "urn:x"}):
        browser.request = named | wrong
        assert browser.open().status == 400
    browser.request = dict(named)
    page = browser.open()
    back = returned(browser.allow(browser.send(page, to=1)))
    assert browser.redeem(back["code"]).status == 200
    assert browser.open().json["error"] == "invalid_request"


@pytest.mark.parametrize(
    "changes",
    [
        {"code_challenge": ""},
        {"code_challenge_method": "plain"},
        {"redirect_uri": "https://evil.example/callback"},
        {"scope": "admin"},
        {"request_uri": "urn:ietf:params:oauth:request_uri:x"},
        {"client_id": "sandbox"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_could_not_be_followed_is_not_kept(deployment: Deployment, changes: dict[str, str]) -> None:
    form = {name: value for name, value in (Browser(deployment).request | changes).items() if value}
    reply = deployment.call("POST", "/oauth/par", form=form)
    assert 400 <= reply.status < 500
    assert "location" not in reply.headers
