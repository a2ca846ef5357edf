"""A member's browser: authorization code with PKCE (RFC 7636), through the sign-in page, to a token."""

import json
import re
import secrets
from base64 import urlsafe_b64encode
from hashlib import sha256
from html import unescape
from urllib.parse import parse_qs, urlencode, urlsplit

import pyotp

from chaos.load.client import Answer, PublicClient
from deploy.local.mesh import LocalMesh
from tests.e2e.public import bearer

CLIENT = "shop-web"
CALLBACK = "http://127.0.0.1/callback"
PASSWORD = "correct horse battery staple"
FORM = {"content-type": "application/x-www-form-urlencoded"}


async def create_account(mesh: LocalMesh, client: PublicClient, member_id: str, login: str) -> None:
    body = {"member_id": member_id, "login": login, "password": PASSWORD}
    headers = await bearer(mesh, client, "accounts.write")
    answer = await client.send("POST", "/v1/accounts", json.dumps(body).encode(), headers)
    assert answer.status == 200, answer.body


async def enrol(mesh: LocalMesh, client: PublicClient, member_id: str) -> str:
    """Give the member a second factor; its one-time password of this moment."""
    headers = await bearer(mesh, client, "accounts.write")
    answer = await client.send("POST", f"/v1/accounts/{member_id}:enrolSecondFactor", b"{}", headers)
    assert answer.status == 200, answer.body
    factor = pyotp.parse_uri(json.loads(answer.body)["uri"])
    assert isinstance(factor, pyotp.TOTP)
    return factor.now()


async def sign_in(client: PublicClient, login: str, scope: str, **second: str) -> str:
    """Returns the access token. second: a one-time password, too."""
    verifier, code = await authorize(client, login, PASSWORD, scope, **second)
    answer = await redeem(client, code, verifier)
    assert answer.status == 200, answer.body
    return str(json.loads(answer.body)["access_token"])


async def authorize(client: PublicClient, login: str, password: str, scope: str, **second: str) -> tuple[str, str]:
    """Sign in and allow; returns the PKCE verifier and the code."""
    verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(12)
    challenge = urlsafe_b64encode(sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    asked = {
        "response_type": "code",
        "client_id": CLIENT,
        "redirect_uri": CALLBACK,
        "scope": scope,
        "state": state,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    page = await client.send("GET", f"/oauth/authorize?{urlencode(asked)}")
    jar = Jar()
    entered = await submit(client, page, jar, login=login, password=password, decision="sign-in", **second)
    assert entered.status == 200, (entered.status, entered.body)
    done = await submit(client, entered, jar, decision="allow")
    assert done.status == 303, (done.status, done.body)
    target = urlsplit(done.headers["location"])
    answer = parse_qs(target.query)
    assert (f"{target.scheme}://{target.netloc}{target.path}", answer["state"]) == (CALLBACK, [state])
    return verifier, answer["code"][0]


class Jar(dict[str, str]):
    """A browser's cookies."""

    def keep(self, answer: Answer) -> None:
        for line in answer.cookies:
            name, _, value = line.partition(";")[0].partition("=")
            self[name] = value

    @property
    def header(self) -> dict[str, str]:
        return {"cookie": "; ".join(f"{name}={value}" for name, value in self.items())}


async def submit(client: PublicClient, page: Answer, jar: Jar, **fields: str) -> Answer:
    """Send the first form of a page."""
    assert page.status == 200, page.body
    jar.keep(page)
    html = page.body.decode()
    form = {"csrf": _attribute(html, r'name="csrf" value="([^"]*)"')} | fields
    action = _attribute(html, r'action="([^"]*)"')
    answer = await client.send("POST", action, urlencode(form).encode(), FORM | jar.header)
    jar.keep(answer)
    return answer


async def redeem(client: PublicClient, code: str, verifier: str) -> Answer:
    form = {
        "grant_type": "authorization_code",
        "client_id": CLIENT,
        "code": code,
        "redirect_uri": CALLBACK,
        "code_verifier": verifier,
    }
    return await client.send("POST", "/oauth/token", urlencode(form).encode(), FORM)


def _attribute(html: str, pattern: str) -> str:
    found = re.search(pattern, html)
    assert found, html
    return unescape(found[1])
