"""Signing in by outside providers, end to end over TLS 1.3: the pages, two replicas, PostgreSQL, and the far side."""

import asyncio
import base64
import http.client
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import psycopg
import pyotp
import pytest

from security.oauth.federation.fetch import Fetcher
from security.oauth.federation.port import AwayError
from security.tokens.admission import STEP_UP_CONTEXT
from tests.integration.conftest import Background
from tests.integration.oauth.authorization_servers import ISSUER, Deployment, Reply, environment
from tests.integration.oauth.browser import Browser, returned
from tests.integration.oauth.outside_providers import OutsideProviders
from tests.integration.oauth.test_oauth_second_factor import enrol
from tests.integration.room import plain

pytestmark = pytest.mark.usefixtures("member")
ACCOUNT = "/oauth/account"
BOTH = pytest.mark.parametrize("kind", ["openid", "wechat"])


@pytest.fixture(scope="module")
def running(deployment: Deployment) -> Iterator[OutsideProviders]:
    """The far side, with a certificate of the same authority that the providers' file names."""
    far, background = OutsideProviders.at(deployment.provider_port, ISSUER), Background()
    try:
        runner = background.run(far.serve(deployment.identity("sandbox-id").resolve()))
        yield far
        background.run(runner.cleanup())
    finally:
        background.close()


@pytest.fixture
def far(running: OutsideProviders, deployment: Deployment) -> Iterator[OutsideProviders]:
    yield running
    running.reset()
    for table in ("departures", "identities", "sessions", "consents", "second_factors"):
        sql(deployment, f"DELETE FROM oauth.{table}")
    sql(deployment, "UPDATE oauth.accounts SET failures = 0, locked_until = NULL")


def sql(deployment: Deployment, statement: str) -> list[Any]:
    with psycopg.connect(plain(deployment.url)) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def on_record(deployment: Deployment, *expected: tuple[str, str, str]) -> None:
    """Refusals are written behind the answer, a moment later."""
    wanted, deadline = {(f"/isthmus.oauth/{event}", *more) for event, *more in expected}, time.monotonic() + 10
    with psycopg.connect(plain(deployment.url), autocommit=True) as connection:
        while missing := wanted - set(connection.execute("SELECT method, reason, result FROM audit.record")):
            assert time.monotonic() < deadline, missing


def account(browser: Browser) -> Reply:
    return browser.keep(browser.deployment.call("GET", ACCOUNT, headers=browser.headers, replica=browser.replica))


def there(browser: Browser, left: Reply) -> str:
    """Follow the page to the provider; where that sends the browser back to."""
    assert left.status == 200, left.body
    found = re.search(r'<a href="([^"]+)"', left.body.decode())
    assert found
    assert f'content="0; url={found[1]}"' in left.body.decode()
    address = urlsplit(unescape(found[1]))
    context = ssl.create_default_context(cafile=str(browser.deployment.home / "ca" / "private" / "root.pem"))
    assert address.hostname
    connection = http.client.HTTPSConnection(address.hostname, address.port, context=context, timeout=10)
    try:
        connection.request("GET", f"{address.path}?{address.query}")
        answer = connection.getresponse()
        assert answer.status == 302, answer.read()
        target = answer.headers["Location"]
    finally:
        connection.close()
    assert target.startswith(f"{ISSUER}/oauth/callback/")
    return target.removeprefix(ISSUER)


def back(browser: Browser, path: str, replica: int = 0) -> Reply:
    """Bring what the provider said."""
    return browser.keep(browser.deployment.call("GET", path, headers=browser.headers, replica=replica))


def leave(browser: Browser, kind: str, page: Reply | None = None) -> Reply:
    return browser.send(page or browser.open(), fields={"login": "", "password": "", "provider": kind})


def connected(deployment: Deployment, kind: str) -> Browser:
    """A browser whose member has connected themselves with whoever is signed in there."""
    browser = Browser(deployment)
    browser.send(account(browser))
    left = browser.send(account(browser), fields={"decision": "connect", "name": kind})
    assert back(browser, there(browser, left), replica=1).status == 303
    return browser


def decided(browser: Browser, entered: Reply) -> dict[str, Any]:
    """Go on from where the sign-in ended, allow; the claims of the token."""
    assert entered.status == 303, entered.body
    consent = back(browser, entered.headers["location"])
    token = browser.redeem(returned(browser.allow(consent))["code"]).json["access_token"]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    return claims


@BOTH
def test_a_member_connects_once_and_signs_in_by_it_from_then_on(
    deployment: Deployment, far: OutsideProviders, member: str, kind: str
) -> None:
    stranger = Browser(deployment)
    refused = back(stranger, there(stranger, leave(stranger, kind)))
    assert (refused.status, b"Nobody here is connected" in refused.body) == (403, True)
    browser = connected(deployment, kind)
    assert b'value="disconnect"' in account(browser).body
    # Another browser leaves from one replica and comes back to the other, and only once.
    visitor = Browser(deployment)
    path = there(visitor, leave(visitor, kind))
    entered = back(visitor, path, replica=1)
    claims = decided(visitor, entered)
    assert (claims["sub"], claims["amr"], "acr" in claims) == (member, ["fed"], False)
    assert back(visitor, path).status == 403
    assert far.protocols == {"TLSv1.3"}
    on_record(
        deployment,
        ("ConnectProvider", kind, "OK"),
        ("SignIn", f"fed {kind}", "OK"),
        ("SignIn", "IDENTITY_UNKNOWN", "UNAUTHENTICATED"),
        ("SignIn", "STATE_UNKNOWN", "UNAUTHENTICATED"),
    )
    assert far.subject not in str(sql(deployment, "SELECT t::text FROM oauth.identities t"))
    assert browser.send(account(browser), fields={"decision": "disconnect", "name": kind}).status == 303
    visitor = Browser(deployment)
    assert back(visitor, there(visitor, leave(visitor, kind))).status == 403


@BOTH
def test_nobody_is_taken_over(deployment: Deployment, far: OutsideProviders, kind: str) -> None:
    connected(deployment, kind)
    # Somebody else there, whatever else they are called.
    far.subject, far.spoil = "mallory", lambda claims: claims.update(email="grace", email_verified=True)
    mallory = Browser(deployment)
    assert back(mallory, there(mallory, leave(mallory, kind))).status == 403
    # A member brings one account of a provider, and an account there one member.
    again = Browser(deployment)
    again.send(account(again))
    left = again.send(account(again), fields={"decision": "connect", "name": kind})
    assert b"connected already" in back(again, there(again, left)).body
    # An answer given to one browser is of no use in another, which is signed in or not.
    left = again.send(account(again), fields={"decision": "connect", "name": kind})
    path, victim = there(again, left), Browser(deployment)
    victim.send(account(victim))
    assert back(victim, path).status == 403
    # Nor in the same one when its session is over.
    again.cookies = {name: value for name, value in again.cookies.items() if "session" not in name}
    assert back(again, path).status == 403
    assert sql(deployment, "SELECT count(*) FROM oauth.identities") == [(1,)]


@BOTH
def test_an_answer_is_good_for_what_was_asked_alone(deployment: Deployment, far: OutsideProviders, kind: str) -> None:
    connected(deployment, kind)
    other = "wechat" if kind == "openid" else "openid"
    browser = Browser(deployment)
    path = there(browser, leave(browser, kind))
    # A mix-up: the answer of one provider at the callback of the other. And a state that nobody was given.
    assert back(browser, path.replace(f"/{kind}?", f"/{other}?")).status == 403
    assert back(browser, f"/oauth/callback/{kind}?{urlencode({'code': 'c', 'state': 's' * 43})}").status == 403
    assert back(browser, f"/oauth/callback/{kind}").status == 403
    # A code of somebody else's round trip.
    first, second = Browser(deployment), Browser(deployment)
    codes = [dict(parse_qs(urlsplit(there(one, leave(one, kind))).query)) for one in (first, second)]
    mixed = {name: value for name, [value] in (codes[0] | {"state": codes[1]["state"]}).items()}
    answer = back(second, f"/oauth/callback/{kind}?{urlencode(mixed)}")
    # OpenID Connect notices by PKCE. WeChat knows none: there the code is somebody's who is in this browser.
    assert answer.status == (403 if kind == "openid" else 303)
    # Who says no there is told so, and may go back to where they were.
    far.refuses = True
    denied = back(browser, there(browser, leave(browser, kind)))
    assert (denied.status, b"did not sign you in" in denied.body) == (403, True)
    assert b'href="/oauth/authorize?' in denied.body


@pytest.mark.parametrize(
    "spoil",
    [
        {"nonce": "n" * 43},
        {"aud": "somebody-else"},
        {"iss": "https://evil.example"},
        {"exp": 1_700_000_000},
    ],
    ids=lambda spoil: next(iter(spoil)),
)
def test_an_id_token_that_is_not_good_signs_nobody_in(
    deployment: Deployment, far: OutsideProviders, spoil: dict[str, Any]
) -> None:
    connected(deployment, "openid")
    far.spoil = lambda claims: claims.update(spoil)
    browser = Browser(deployment)
    refused = back(browser, there(browser, leave(browser, "openid")))
    assert (refused.status, b"could not say for certain" in refused.body) == (403, True)


def test_a_second_factor_is_asked_for_by_a_provider_too(
    deployment: Deployment, far: OutsideProviders, member: str
) -> None:
    connected(deployment, "openid")
    secret = asyncio.run(enrol(deployment, member))
    browser = Browser(deployment)
    browser.request["acr_values"] = STEP_UP_CONTEXT
    asked = back(browser, there(browser, leave(browser, "openid")))
    assert b'name="second"' in asked.body
    state = re.search(r'name="state" value="([^"]+)"', asked.body.decode())
    assert state

    def enter(password: str, replica: int) -> Reply:
        return browser.send(asked, to=replica, fields={"state": state[1], "second": password, "login": ""})

    assert enter("000000", 0).status == 403
    password = pyotp.TOTP(secret).now()
    claims = decided(browser, enter(password, 1))
    assert (claims["acr"], claims["amr"]) == (STEP_UP_CONTEXT, ["fed", "otp", "mfa"])
    assert enter(password, 0).status == 403
    # The waiting one-time password is no way round the provider.
    assert back(browser, f"/oauth/callback/openid?{urlencode({'code': 'c', 'state': state[1]})}").status == 403


def test_a_sign_in_of_just_now_is_asked_for_there(deployment: Deployment, far: OutsideProviders) -> None:
    connected(deployment, "openid")
    browser = Browser(deployment)
    browser.request |= {"prompt": "login", "max_age": "0"}
    entered = back(browser, there(browser, leave(browser, "openid")))
    assert decided(browser, entered)["amr"] == ["fed"]
    far.spoil = lambda claims: claims.update(auth_time=claims["auth_time"] - 3600)
    stale = Browser(deployment)
    stale.request["max_age"] = "600"
    assert b"did not confirm" in back(stale, there(stale, leave(stale, "openid"))).body
    # Without such a wish an old one will do, but not to change how somebody signs in.
    old = Browser(deployment)
    assert back(old, there(old, leave(old, "openid", account(old)))).status == 303
    page = account(old)
    assert b'value="disconnect"' in page.body
    again = old.send(page, fields={"decision": "disconnect", "name": "openid"})
    assert b"Please sign in again" in again.body
    assert sql(deployment, "SELECT count(*) FROM oauth.identities") == [(1,)]


async def test_no_answer_is_too_large_or_from_elsewhere(deployment: Deployment, far: OutsideProviders) -> None:
    root = str(deployment.home / "ca" / "private" / "root.pem")
    known, strange = Fetcher(ssl.create_default_context(cafile=root)), Fetcher(ssl.create_default_context())
    far.oversize = True
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"https://127.0.0.1:{closed.getsockname()[1]}/"
        redirects = f"{far.base}/connect/qrconnect?" + urlencode(
            {
                "appid": "wx0000000000000002",
                "redirect_uri": far.callbacks["wechat"],
                "response_type": "code",
                "scope": "snsapi_login",
                "state": "s",
            }
        )
        try:
            for fetch, url, said in (
                (known, f"{far.base}/.well-known/openid-configuration", "more than"),
                (known, redirects, "it answered 302"),
                (known, nobody, "Client"),
                (strange, f"{far.base}/jwks", "Certificate"),
            ):
                with pytest.raises(AwayError, match=said):
                    await fetch(url)
        finally:
            await known.close()
            await strange.close()


def test_a_server_does_not_start_with_a_file_that_is_ill_formed(deployment: Deployment) -> None:
    file = deployment.home / "bad.toml"
    file.write_text('[openid]\nkind = "openid"\nissuer = "http://id.example"\n')
    started = subprocess.run(
        [sys.executable, "-m", "security.oauth"],
        env=os.environ | environment(deployment, "oauth-1", 0, 0) | {"ISTHMUS_IDENTITY_PROVIDERS": str(file)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert started.returncode != 0
    assert "IDENTITY_PROVIDERS_INVALID" in started.stdout + started.stderr
