"""Signing in by outside providers, end to end over TLS 1.3: the pages, two replicas, PostgreSQL, and the far side.

The far side of OpenID Connect is a second instance of our own server.
"""

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
from collections.abc import Callable, Iterator
from html import unescape
from typing import Any
from urllib.parse import SplitResult, parse_qs, parse_qsl, urlencode, urlsplit

import psycopg
import pyotp
import pytest

from deploy.local import postgres
from deploy.local.mesh import LocalMesh
from security.oauth.federation.fetch import Fetcher
from security.oauth.federation.port import AwayError
from security.tokens.admission import STEP_UP_CONTEXT
from tests.integration.conftest import Background
from tests.integration.oauth.authorization_servers import ISSUER, Deployment, Reply, environment
from tests.integration.oauth.browser import PASSWORD, Browser, returned
from tests.integration.oauth.outside_providers import (
    PEOPLE,
    SOMEBODY,
    SOMEBODY_ELSE,
    OutsideProviders,
    second_instance,
)
from tests.integration.oauth.test_oauth_second_factor import enrol
from tests.integration.room import plain

pytestmark = pytest.mark.usefixtures("member")
ACCOUNT = "/oauth/account"
BOTH = pytest.mark.parametrize("kind", ["openid", "wechat"])


@pytest.fixture(scope="module")
def outside(
    deployment: Deployment,
    provider_port: int,
    postgres_server: LocalMesh,
    tmp_path_factory: pytest.TempPathFactory,
    background: Background,
) -> Iterator[OutsideProviders]:
    """The far side, with a certificate of the same authority that the providers' file names."""
    home, url = tmp_path_factory.mktemp("sandbox"), postgres.url(postgres_server.home, "test_oauth_sandbox")
    with second_instance(home, url, provider_port, ISSUER) as sandbox:
        far = OutsideProviders.before(sandbox, ISSUER)
        runner = background.run(far.serve(deployment.identity("sandbox-id").resolve()))
        yield far
        background.run(runner.cleanup())


@pytest.fixture
def far(outside: OutsideProviders, deployment: Deployment) -> Iterator[OutsideProviders]:
    yield outside
    outside.reset()
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


def sent_to(left: Reply) -> str:
    """Where the page sends the browser on."""
    assert left.status == 200, left.body
    found = re.search(r'<a href="([^"]+)"', left.body.decode())
    assert found
    assert f'content="0; url={found[1]}"' in left.body.decode()
    return unescape(found[1])


def there(browser: Browser, far: OutsideProviders, left: Reply, login: str = SOMEBODY) -> str:
    """Follow the page to the provider, sign in there as `login`; where that sends the browser back to."""
    address = urlsplit(sent_to(left))
    target = at_wechat(browser, far, address, login) if "qrconnect" in address.path else at_ours(far, address, login)
    assert target.startswith(f"{ISSUER}/oauth/callback/")
    return target.removeprefix(ISSUER)


def at_ours(far: OutsideProviders, address: SplitResult, login: str, visitor: Browser | None = None) -> str:
    """Sign in and allow, unless `visitor` has done so before."""
    visitor = visitor or Browser(far.sandbox)
    assert f"{address.scheme}://{address.netloc}" == far.base
    reply = visitor.keep(far.sandbox.call("GET", f"{address.path}?{address.query}", headers=visitor.headers))
    if b'name="password"' in reply.body:
        reply = visitor.send(reply, fields={"login": login, "password": PASSWORD})
    if reply.status == 200:
        reply = visitor.allow(reply)
    assert reply.status == 303, reply.body
    return reply.headers["location"]


def at_wechat(browser: Browser, far: OutsideProviders, address: SplitResult, login: str) -> str:
    far.wechat.subject = PEOPLE[login]
    context = ssl.create_default_context(cafile=str(browser.deployment.home / "ca" / "private" / "root.pem"))
    assert address.hostname
    connection = http.client.HTTPSConnection(address.hostname, address.port, context=context, timeout=10)
    try:
        connection.request("GET", f"{address.path}?{address.query}")
        answer = connection.getresponse()
        assert answer.status == 302, answer.read()
        return str(answer.headers["Location"])
    finally:
        connection.close()


def back(browser: Browser, path: str, replica: int = 0) -> Reply:
    """Bring what the provider said."""
    return browser.keep(browser.deployment.call("GET", path, headers=browser.headers, replica=replica))


def leave(browser: Browser, kind: str, page: Reply | None = None) -> Reply:
    return browser.send(page or browser.open(), fields={"login": "", "password": "", "provider": kind})


def connected(deployment: Deployment, far: OutsideProviders, kind: str) -> Browser:
    """A browser whose member has connected themselves with whoever is signed in there."""
    browser = Browser(deployment)
    browser.send(account(browser))
    left = browser.send(account(browser), fields={"decision": "connect", "name": kind})
    assert back(browser, there(browser, far, left), replica=1).status == 303
    return browser


def decided(browser: Browser, entered: Reply) -> dict[str, Any]:
    """Go on from where the sign-in ended, allow; the claims of the token."""
    assert entered.status == 303, entered.body
    consent = back(browser, entered.headers["location"])
    token = browser.redeem(returned(browser.allow(consent))["code"]).json["access_token"]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    return claims


@pytest.mark.parametrize("kind", ["openid", "keyed", "wechat"])
def test_a_member_connects_once_and_signs_in_by_it_from_then_on(
    deployment: Deployment, far: OutsideProviders, member: str, kind: str
) -> None:
    stranger = Browser(deployment)
    refused = back(stranger, there(stranger, far, leave(stranger, kind)))
    assert (refused.status, b"Nobody here is connected" in refused.body) == (403, True)
    browser = connected(deployment, far, kind)
    assert b'value="disconnect"' in account(browser).body
    # Another browser leaves from one replica and comes back to the other, and only once.
    visitor = Browser(deployment)
    path = there(visitor, far, leave(visitor, kind))
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
    assert PEOPLE[SOMEBODY] not in str(sql(deployment, "SELECT t::text FROM oauth.identities t"))
    assert browser.send(account(browser), fields={"decision": "disconnect", "name": kind}).status == 303
    visitor = Browser(deployment)
    assert back(visitor, there(visitor, far, leave(visitor, kind))).status == 403


@BOTH
def test_nobody_is_taken_over(deployment: Deployment, far: OutsideProviders, kind: str) -> None:
    connected(deployment, far, kind)
    # Somebody else there, though they are called there as the member is called here.
    mallory = Browser(deployment)
    assert back(mallory, there(mallory, far, leave(mallory, kind), SOMEBODY_ELSE)).status == 403
    # A member brings one account of a provider, and an account there one member.
    again = Browser(deployment)
    again.send(account(again))
    left = again.send(account(again), fields={"decision": "connect", "name": kind})
    assert b"connected already" in back(again, there(again, far, left)).body
    # An answer given to one browser is of no use in another, which is signed in or not.
    left = again.send(account(again), fields={"decision": "connect", "name": kind})
    path, victim = there(again, far, left), Browser(deployment)
    victim.send(account(victim))
    assert back(victim, path).status == 403
    # Nor in the same one when its session is over.
    again.cookies = {name: value for name, value in again.cookies.items() if "session" not in name}
    assert back(again, path).status == 403
    assert sql(deployment, "SELECT count(*) FROM oauth.identities") == [(1,)]


def refusing(browser: Browser, far: OutsideProviders, left: Reply) -> str:
    """Say no at the provider."""
    address = urlsplit(sent_to(left))
    far.wechat.refuses = True
    if "qrconnect" in address.path:
        return at_wechat(browser, far, address, SOMEBODY).removeprefix(ISSUER)
    visitor = Browser(far.sandbox)
    page = visitor.keep(far.sandbox.call("GET", f"{address.path}?{address.query}"))
    return visitor.send(page, fields={"decision": "deny"}).headers["location"].removeprefix(ISSUER)


@BOTH
def test_an_answer_is_good_for_what_was_asked_alone(deployment: Deployment, far: OutsideProviders, kind: str) -> None:
    connected(deployment, far, kind)
    other = "wechat" if kind == "openid" else "openid"
    browser = Browser(deployment)
    path = there(browser, far, leave(browser, kind))
    # A mix-up: the answer of one provider at the callback of the other. And a state that nobody was given.
    assert back(browser, path.replace(f"/{kind}?", f"/{other}?")).status == 403
    assert back(browser, f"/oauth/callback/{kind}?{urlencode({'code': 'c', 'state': 's' * 43})}").status == 403
    assert back(browser, f"/oauth/callback/{kind}").status == 403
    # A code of somebody else's round trip.
    first, second = Browser(deployment), Browser(deployment)
    codes = [dict(parse_qs(urlsplit(there(one, far, leave(one, kind))).query)) for one in (first, second)]
    mixed = {name: value for name, [value] in (codes[0] | {"state": codes[1]["state"]}).items()}
    answer = back(second, f"/oauth/callback/{kind}?{urlencode(mixed)}")
    # OpenID Connect notices by PKCE. WeChat knows none: there the code is somebody's who is in this browser.
    assert answer.status == (403 if kind == "openid" else 303)
    # Who says no there is told so, and may go back to where they were.
    denied = back(browser, refusing(browser, far, leave(browser, kind)))
    assert (denied.status, b"did not sign you in" in denied.body) == (403, True)
    assert b'href="/oauth/authorize?' in denied.body


def unsigned(token: str, far: OutsideProviders) -> str:
    header = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    return f"{header}.{token.split('.')[1]}."


def of_somebody_else(token: str, far: OutsideProviders) -> str:
    header, payload, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "==")) | {"sub": PEOPLE[SOMEBODY_ELSE]}
    changed = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"{header}.{changed}.{signature}"


@pytest.mark.parametrize(
    ("swapped", "rule"),
    [
        (lambda token, far: far.given[0]["id_token"], "ID_TOKEN_NONCE"),
        (lambda token, far: far.given[-1]["access_token"], "ID_TOKEN_HEADER"),
        (unsigned, "ID_TOKEN_"),
        (of_somebody_else, "ID_TOKEN_SIGNATURE"),
        (lambda token, far: None, "ID_TOKEN_MISSING"),
    ],
    ids=["of another round trip", "the access token", "without a signature", "of somebody else", "none"],
)
def test_an_id_token_that_is_not_good_signs_nobody_in(
    deployment: Deployment,
    far: OutsideProviders,
    swapped: Callable[[str, OutsideProviders], str | None],
    rule: str,
) -> None:
    """Somebody on the way between the servers changes the answer. What else may be wrong: test_id_tokens.py."""
    connected(deployment, far, "openid")
    far.tamper["/oauth/token"] = lambda said: said.update(id_token=swapped(said["id_token"], far))
    browser = Browser(deployment)
    refused = back(browser, there(browser, far, leave(browser, "openid")))
    assert (refused.status, b"could not say for certain" in refused.body) == (403, True)
    assert "provider_proved_nobody" in logged(deployment)
    assert rule in logged(deployment)


def logged(deployment: Deployment) -> str:
    return "".join(path.read_text() for path in deployment.home.glob("oauth-*.log"))


def test_a_second_factor_is_asked_for_by_a_provider_too(
    deployment: Deployment, far: OutsideProviders, member: str
) -> None:
    connected(deployment, far, "openid")
    secret = asyncio.run(enrol(deployment, member))
    browser = Browser(deployment)
    browser.request["acr_values"] = STEP_UP_CONTEXT
    asked = back(browser, there(browser, far, leave(browser, "openid")))
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
    connected(deployment, far, "openid")
    browser = Browser(deployment)
    browser.request |= {"prompt": "login", "max_age": "0"}
    # Though they have a session there.
    visitor = Browser(far.sandbox)
    at_ours(far, urlsplit(sent_to(leave(Browser(deployment), "openid"))), SOMEBODY, visitor)
    address = urlsplit(sent_to(leave(browser, "openid")))
    asked = visitor.keep(far.sandbox.call("GET", f"{address.path}?{address.query}", headers=visitor.headers))
    assert b'name="password"' in asked.body
    entered = back(browser, at_ours(far, address, SOMEBODY, visitor).removeprefix(ISSUER))
    assert decided(browser, entered)["amr"] == ["fed"]
    # Whoever takes that wish out of the address on the way is found out.
    sql(far.sandbox, "UPDATE oauth.sessions SET signed_in_at = signed_in_at - interval '1 hour'")
    stale = Browser(deployment)
    stale.request["max_age"] = "600"
    address = urlsplit(sent_to(leave(stale, "openid")))
    left = urlencode([each for each in parse_qsl(address.query) if each[0] != "max_age"])
    answer = at_ours(far, address._replace(query=left), SOMEBODY, visitor).removeprefix(ISSUER)
    assert b"did not confirm" in back(stale, answer).body
    # Without such a wish an old one will do, but not to change how somebody signs in.
    old = Browser(deployment)
    address = urlsplit(sent_to(leave(old, "openid", account(old))))
    assert back(old, at_ours(far, address, SOMEBODY, visitor).removeprefix(ISSUER)).status == 303
    page = account(old)
    assert b'value="disconnect"' in page.body
    again = old.send(page, fields={"decision": "disconnect", "name": "openid"})
    assert b"Please sign in again" in again.body
    assert sql(deployment, "SELECT count(*) FROM oauth.identities") == [(1,)]


async def test_no_answer_is_too_large_or_from_elsewhere(deployment: Deployment, far: OutsideProviders) -> None:
    root = str(deployment.home / "ca" / "private" / "root.pem")
    known, strange = Fetcher(ssl.create_default_context(cafile=root)), Fetcher(ssl.create_default_context())
    discovery = "/.well-known/openid-configuration"
    far.tamper[discovery] = lambda said: said.update(padding="x" * 300_000)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"https://127.0.0.1:{closed.getsockname()[1]}/"
        redirects = f"{far.base}/connect/qrconnect?" + urlencode(
            {
                "appid": "wx0000000000000002",
                "redirect_uri": far.wechat.callback,
                "response_type": "code",
                "scope": "snsapi_login",
                "state": "s",
            }
        )
        try:
            for fetch, url, said in (
                (known, f"{far.base}{discovery}", "more than"),
                (known, redirects, "it answered 302"),
                (known, nobody, "Client"),
                (strange, f"{far.base}/oauth/jwks.json", "Certificate"),
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
