"""Sessions, remembered consents and passkeys: what a member sees of them, and how each of them ends."""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from html import unescape
from typing import Any

import psycopg
import pytest

from security.keys.errors import EnvelopeRejected
from security.oauth.domain import BY_PASSKEY
from security.oauth.logins import unseal
from security.tokens.admission import STEP_UP_CONTEXT
from tests.integration.oauth.authenticator import PRESENT, Authenticator
from tests.integration.oauth.authorization_servers import ISSUER, Deployment, Reply
from tests.integration.oauth.browser import LOGIN, Browser, returned
from tests.integration.room import plain

pytestmark = pytest.mark.usefixtures("member")
SHOP = "https://shop.isthmus.example/callback"
ACCOUNT = "/oauth/account"


def sql(deployment: Deployment, statement: str) -> list[Any]:
    with psycopg.connect(plain(deployment.url)) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture(autouse=True)
def nothing_left(deployment: Deployment) -> Iterator[None]:
    yield
    for table in ("sessions", "consents", "passkeys"):
        sql(deployment, f"DELETE FROM oauth.{table}")
    # Other tests go on with the same member.
    sql(deployment, "DELETE FROM oauth.revocations WHERE kind = 'subject'")


def account(browser: Browser, replica: int = 0) -> Reply:
    return browser.keep(browser.deployment.call("GET", ACCOUNT, headers=browser.headers, replica=replica))


def entered(deployment: Deployment) -> Browser:
    """A browser whose member is signed in."""
    browser = Browser(deployment)
    browser.send(account(browser))
    return browser


def options(page: Reply) -> dict[str, Any]:
    found = re.search(r'data-options="([^"]+)"', page.body.decode())
    assert found, page.body
    parsed: dict[str, Any] = json.loads(unescape(found[1]))
    return parsed


def test_a_login_is_kept_as_a_keyed_hash_and_seen_again_by_whoever_typed_it_alone(deployment: Deployment) -> None:
    browser = entered(deployment)
    assert LOGIN in account(browser).body.decode()
    rows = sql(deployment, "SELECT (to_jsonb(accounts) - 'member_id')::text, login_index FROM oauth.accounts")
    assert rows
    for text, index in rows:
        assert LOGIN.encode() not in text.encode() + index
        assert LOGIN.encode().hex() not in text
        # Nor as a hash that anybody can compute.
        assert index != hashlib.sha256(LOGIN.encode()).digest()
    # In the session it is under what the cookie holds, which lies nowhere here.
    ((sealed, digest),) = sql(
        deployment, "SELECT login_sealed, digest FROM oauth.sessions ORDER BY signed_in_at DESC LIMIT 1"
    )
    assert LOGIN.encode() not in bytes(sealed)
    with pytest.raises(EnvelopeRejected):
        unseal(bytes(digest).hex(), bytes(sealed))


def claims(reply: Reply) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(reply.json["access_token"].split(".")[1] + "=="))
    return found


def shop(browser: Browser, **more: str) -> Browser:
    """The same browser, sent by the shop's web pages, whose address is nobody else's."""
    browser.request |= {"redirect_uri": SHOP} | more
    return browser


def test_who_is_signed_in_and_has_allowed_it_is_asked_nothing(deployment: Deployment) -> None:
    browser = shop(Browser(deployment))
    assert browser.allow(browser.send(browser.open())).status == 303
    browser.replica = 1
    again = browser.open()
    assert (again.status, again.headers["location"].startswith(f"{SHOP}?code=")) == (303, True)
    assert b'value="allow"' in shop(browser, scope="orders.read members.read").open().body
    assert b'value="allow"' in shop(browser, scope="orders.read", prompt="consent").open().body
    assert b'name="password"' in shop(browser, prompt="login").open().body
    assert b'name="password"' in shop(browser, prompt="", acr_values=STEP_UP_CONTEXT).open().body
    assert b'name="password"' in shop(browser, acr_values="", max_age="0").open().body
    assert b'name="password"' not in shop(browser, max_age="600").open().body


def test_an_app_on_a_loopback_address_is_always_asked_for(deployment: Deployment) -> None:
    browser = Browser(deployment)
    assert browser.sign_in().status == 303
    assert b'value="allow"' in browser.open().body


@pytest.mark.parametrize(("signed_in", "error"), [(False, "login_required"), (True, "consent_required")])
def test_an_app_may_ask_without_asking_the_member(deployment: Deployment, signed_in: bool, error: str) -> None:
    browser = shop(entered(deployment) if signed_in else Browser(deployment), prompt="none")
    assert f"error={error}" in browser.open().headers["location"]


def test_a_form_of_one_session_is_worth_nothing_in_another(deployment: Deployment) -> None:
    browser = Browser(deployment)
    page = browser.send(browser.open())
    kept = dict(browser.cookies)
    browser.send(browser.open(), fields={"password": "wrong"})
    other = Browser(deployment)
    other.cookies = {name: value for name, value in kept.items() if "csrf" in name}
    assert other.send(page, fields={"decision": "allow"}).status == 403
    other.send(account(other))
    assert other.send(page, fields={"decision": "allow"}).status == 403


def test_a_consent_that_is_withdrawn_ends_all_that_came_of_it(deployment: Deployment) -> None:
    browser = Browser(deployment)
    given = browser.redeem(returned(browser.sign_in())["code"]).json
    page = account(browser)
    assert b"Shop" in page.body
    assert browser.send(page, fields={"decision": "withdraw", "name": "shop-web"}).status == 303
    assert b"Shop" not in account(browser).body
    form = {"grant_type": "refresh_token", "client_id": "shop-web", "refresh_token": given["refresh_token"]}
    assert deployment.call("POST", "/oauth/token", form=form).json["error"] == "invalid_grant"
    assert sql(deployment, "SELECT count(*) FROM audit.record WHERE method LIKE '%/WithdrawConsent'")[0][0] >= 1


def test_a_session_can_be_ended_from_another_and_everywhere(deployment: Deployment) -> None:
    here, there = entered(deployment), entered(deployment)
    page = account(here, replica=1)
    names = re.findall(r'name="name" value="([0-9a-f]{16})"', page.body.decode())
    assert len(names) == 2
    [other] = [name for name in names if name != _own(page)]
    assert here.send(page, fields={"decision": "end", "name": other}).status == 303
    assert b'name="password"' in account(there).body
    there = entered(deployment)
    refresh = there.redeem(returned(there.allow(there.open()))["code"]).json["refresh_token"]
    assert here.send(account(here), fields={"decision": "end-all"}).status == 303
    for browser in (here, there):
        assert b'name="password"' in account(browser).body
    form = {"grant_type": "refresh_token", "client_id": "shop-web", "refresh_token": refresh}
    assert deployment.call("POST", "/oauth/token", form=form).json["error"] == "invalid_grant"


def _own(page: Reply) -> str:
    """The session that the page itself is seen in: its row says so."""
    rows = re.findall(r"<li>.*?</li>", page.body.decode(), re.DOTALL)
    [own] = [row for row in rows if "(here)" in row]
    found = re.search(r'value="([0-9a-f]{16})"', own)
    assert found
    return found[1]


def test_a_passkey_is_both_factors_at_once(deployment: Deployment) -> None:
    authenticator = Authenticator(ISSUER)
    browser = entered(deployment)
    page = account(browser)
    made = authenticator.make(options(page))
    assert browser.send(page, fields={"decision": "add", "credential": made}, to=1).status == 303
    visitor = Browser(deployment)
    visitor.request["acr_values"] = STEP_UP_CONTEXT
    page = visitor.open()
    shown = authenticator.sign(options(page))
    signed_in = visitor.send(page, fields={"credential": shown}, to=1)
    found = claims(visitor.redeem(returned(visitor.allow(signed_in))["code"]))
    assert (found["acr"], found["amr"]) == (STEP_UP_CONTEXT, BY_PASSKEY.split())
    # The same once more, here and in another browser.
    assert visitor.send(page, fields={"credential": shown}).status == 403
    assert Browser(deployment).send(page, fields={"credential": shown}).status == 403
    browser = entered(deployment)
    listed = account(browser)
    name = re.search(r'name="name" value="([A-Za-z0-9_-]{43})"', listed.body.decode())
    assert name
    assert browser.send(listed, fields={"decision": "remove", "name": name[1]}).status == 303
    page = visitor.open()
    assert b"No passkey was used" not in page.body


@pytest.mark.parametrize(
    "spoil",
    [
        lambda key: setattr(key, "origin", "https://evil.example"),
        lambda key: setattr(key, "site", "evil.example"),
        lambda key: setattr(key, "flags", PRESENT),
        lambda key: setattr(key, "count", 4),
        lambda key: setattr(key, "key", Authenticator(ISSUER).key),
        lambda key: setattr(key, "credential_id", b"x" * 32),
    ],
    ids=["another origin", "another site", "nobody verified", "a copy that counts behind", "another key", "unknown"],
)
def test_a_passkey_that_is_not_quite_right_opens_nothing(
    deployment: Deployment, spoil: Callable[[Authenticator], None]
) -> None:
    authenticator = Authenticator(ISSUER, count=5)
    browser = entered(deployment)
    page = account(browser)
    assert browser.send(page, fields={"decision": "add", "credential": authenticator.make(options(page))}).status == 303
    spoil(authenticator)
    visitor = Browser(deployment)
    page = visitor.open()
    assert visitor.send(page, fields={"credential": authenticator.sign(options(page))}).status == 403


def test_a_passkey_is_not_added_to_an_old_session_or_with_anothers_challenge(deployment: Deployment) -> None:
    authenticator, browser = Authenticator(ISSUER), entered(deployment)
    foreign = options(account(entered(deployment)))
    page = account(browser)
    fields = {"decision": "add", "credential": authenticator.make(foreign)}
    assert browser.send(page, fields=fields).status == 403
    for credential in ("", "{}", "[]", "x", json.dumps({"response": {"clientDataJSON": "%%"}})):
        assert browser.send(page, fields={"decision": "add", "credential": credential}).status == 403
    sql(deployment, "UPDATE oauth.sessions SET signed_in_at = now() - interval '11 minutes'")
    fields = {"decision": "add", "credential": authenticator.make(options(page))}
    assert b'name="password"' in browser.send(page, fields=fields).body
    assert sql(deployment, "SELECT count(*) FROM oauth.passkeys") == [(0,)]


def test_a_session_ends_by_itself_and_its_cookie_lies_nowhere(deployment: Deployment) -> None:
    browser = entered(deployment)
    cookie = next(value for name, value in browser.cookies.items() if "session" in name)
    assert cookie not in str(sql(deployment, "SELECT t::text FROM oauth.sessions t"))
    sql(deployment, "UPDATE oauth.sessions SET expires_at = now() - interval '1 s'")
    assert b'name="password"' in account(browser).body
