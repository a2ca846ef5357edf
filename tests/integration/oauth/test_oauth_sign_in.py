"""The authorization code grant: a member signs in on a plain page; a code is good once, with its proof."""

import base64
import hashlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlencode

import psycopg
import pytest

from tests.integration.oauth.authorization_servers import ISSUER, Deployment
from tests.integration.oauth.browser import CALLBACK, PASSWORD, Browser, returned


async def test_a_member_signs_in_and_the_app_gets_a_token_for_them(deployment: Deployment, member: str) -> None:
    browser = Browser(deployment)
    # The page of one replica, the form to the other, the code back to the first: they share everything they need.
    back = returned(browser.allow(browser.send(browser.open(), to=1)))
    assert (back["state"], back["iss"]) == ("s&t=1", ISSUER)
    reply = browser.redeem(back["code"])
    assert reply.status == 200, reply.body
    payload = reply.json["access_token"].split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    assert (claims["sub"], claims["client_id"], claims["aud"]) == (member, "shop-web", "isthmus-core")
    assert claims["scope"] == "orders.read orders.write"
    assert claims["auth_time"] <= claims["iat"]


def test_the_page_needs_no_script_and_allows_the_passkey_s_alone(deployment: Deployment) -> None:
    page = Browser(deployment).open()
    assert page.status == 200
    # Without it the form of the passkey stays hidden, and the other works.
    assert re.search(rb'<form [^>]*id="passkey"[^>]* hidden>', page.body)
    policy = page.headers["content-security-policy"]
    [script] = re.findall(r"<script>(.*?)</script>", page.body.decode(), re.DOTALL)
    known = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{known}';" in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert f"form-action 'self' {CALLBACK.removesuffix('/callback')};" in policy
    cookie = page.headers["set-cookie"]
    assert cookie.startswith("__Host-")
    assert all(word in cookie.lower() for word in ("secure", "httponly", "samesite=lax", "path=/"))


def test_what_the_request_says_is_escaped(deployment: Deployment) -> None:
    browser = Browser(deployment)
    browser.request["state"] = '"><b>x'
    assert b"<b>" not in browser.open().body


@pytest.mark.parametrize("fields", [{"password": "wrong"}, {"login": "nobody"}, {"login": ""}, {"password": ""}])
async def test_a_wrong_sign_in_says_the_same_whatever_was_wrong(
    deployment: Deployment, member: str, fields: dict[str, str]
) -> None:
    reply = Browser(deployment).sign_in(**fields)
    assert reply.status == 403
    assert b"That was not right" in reply.body
    assert "location" not in reply.headers
    # The account is open again after a good one.
    assert Browser(deployment).code()


async def test_after_five_wrong_passwords_even_the_right_one_waits(deployment: Deployment, member: str) -> None:
    browser = Browser(deployment)
    page = browser.open()
    for _ in range(7):
        assert browser.send(page, fields={"password": "wrong"}).status == 403
    assert browser.send(page).status == 403
    with psycopg.connect(deployment.url.replace("postgresql+psycopg", "postgresql")) as connection:
        connection.execute("UPDATE oauth.accounts SET locked_until = now() - interval '1 s', failures = 0")
    assert browser.send(page).status == 200


async def test_who_denies_is_sent_back_without_a_code(deployment: Deployment) -> None:
    back = returned(Browser(deployment).sign_in(decision="deny"))
    assert back == {"error": "access_denied", "state": "s&t=1", "iss": ISSUER} | {
        name: back[name] for name in back.keys() & {"error_description"}
    }


def test_a_form_that_was_not_made_here_is_refused(deployment: Deployment) -> None:
    browser = Browser(deployment)
    page = browser.open()
    for csrf in ("", "x", "1.x", "9" * 30 + ".x"):
        assert browser.send(page, fields={"csrf": csrf}).status == 403
    # The token of one request does not fit another.
    other = Browser(deployment)
    stolen = re.search(r'name="csrf" value="([^"]+)"', other.open().body.decode())
    assert stolen
    assert browser.send(page, fields={"csrf": stolen[1]}).status == 403


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"code_challenge": ""}, "invalid_request"),
        ({"code_challenge_method": ""}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"scope": "orders.read admin"}, "invalid_scope"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": ""}, "unsupported_response_type"),
        ({"request": "eyJhbGciOiJub25lIn0.e30."}, "request_not_supported"),
    ],
)
def test_a_bad_request_of_a_known_app_is_sent_back(deployment: Deployment, changes: dict[str, str], error: str) -> None:
    browser = Browser(deployment)
    browser.request.update(changes)
    back = returned(browser.open())
    assert (back["error"], back["state"], back["iss"]) == (error, "s&t=1", ISSUER)


@pytest.mark.parametrize(
    "changes",
    [
        {"redirect_uri": ""},
        {"redirect_uri": "https://evil.example/callback"},
        {"redirect_uri": "http://127.0.0.1:49152/other"},
        {"redirect_uri": "http://localhost:49152/callback"},
        {"redirect_uri": "javascript:alert(1)"},
        {"client_id": ""},
        {"client_id": "nobody"},
        {"client_id": "sandbox"},
        {"state": "\x00"},
        {"state": "é"},
        {"state": "x" * 3000},
    ],
)
def test_nobody_is_sent_to_a_place_that_is_not_registered(deployment: Deployment, changes: dict[str, str]) -> None:
    browser = Browser(deployment)
    browser.request.update(changes)
    reply = browser.open()
    assert 400 <= reply.status < 500
    assert "location" not in reply.headers
    assert reply.json["error"]


def test_a_person_with_a_bad_request_gets_a_page(deployment: Deployment) -> None:
    reply = deployment.call("GET", "/oauth/authorize?client_id=%3Cb%3E", headers={"Accept": "text/html"})
    assert 400 <= reply.status < 500
    assert reply.headers["content-type"].startswith("text/html")
    assert b"<b>" not in reply.body


def test_a_repeated_parameter_is_refused(deployment: Deployment) -> None:
    query = urlencode(Browser(deployment).request)
    assert deployment.call("GET", f"/oauth/authorize?{query}&scope=admin").json["error"] == "invalid_request"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"code_verifier": ""}, "invalid_request"),
        ({"code_verifier": "A" * 43}, "invalid_grant"),
        ({"code_verifier": "short"}, "invalid_request"),
        ({"redirect_uri": "http://127.0.0.1:49153/callback"}, "invalid_grant"),
        ({"redirect_uri": ""}, "invalid_grant"),
    ],
)
async def test_a_code_without_its_proof_is_refused_and_lost(
    deployment: Deployment, member: str, changes: dict[str, str], error: str
) -> None:
    browser = Browser(deployment)
    code = browser.code()
    assert browser.redeem(code, changes=changes).json["error"] == error
    assert browser.redeem(code).json["error"] == "invalid_grant"


async def test_of_many_who_redeem_one_code_at_once_one_at_most_gets_tokens(deployment: Deployment, member: str) -> None:
    browser = Browser(deployment)
    code = browser.code()
    with ThreadPoolExecutor(8) as threads:
        replies = list(threads.map(lambda n: browser.redeem(code, replica=n % 2), range(8)))
    # The first, unless a second was noticed before its tokens were made: then nobody is to have any.
    assert sorted(reply.status for reply in replies) in ([200] + [400] * 7, [400] * 8)


async def test_an_old_code_is_refused(deployment: Deployment, member: str) -> None:
    browser = Browser(deployment)
    code = browser.code()
    with psycopg.connect(deployment.url.replace("postgresql+psycopg", "postgresql")) as connection:
        connection.execute("UPDATE oauth.codes SET expires_at = now() - interval '1 s'")
    assert browser.redeem(code).json["error"] == "invalid_grant"


async def test_secrets_are_nowhere_in_the_database_or_the_logs(deployment: Deployment, member: str) -> None:
    browser = Browser(deployment)
    code = browser.code()
    with psycopg.connect(deployment.url.replace("postgresql+psycopg", "postgresql")) as connection:
        tables = ("clients", "accounts", "codes", "signing_keys")
        dump = "".join(str(connection.execute(f"SELECT t::text FROM oauth.{table} t").fetchall()) for table in tables)
    token = browser.redeem(code).json["access_token"]
    logs = "".join(path.read_text() for path in deployment.home.glob("oauth-*.log"))
    for secret in (PASSWORD, deployment.secret, code, token, token.split(".")[2]):
        assert secret not in dump
        assert secret not in logs
