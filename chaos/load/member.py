"""A member at their browser, and the app that they let in: authorization code with PKCE (RFC 7636), to bound tokens."""

import re
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Mapping
from hashlib import sha256
from html import unescape
from typing import Final
from urllib.parse import parse_qs, urlencode, urlsplit

from chaos.load.client import Answer, PublicClient
from chaos.load.outcomes import CallFailed
from mesh.client.proof import ProofKey

APP: Final = "shop-web"
CALLBACK: Final = "http://127.0.0.1/callback"
FORM: Final = {"content-type": "application/x-www-form-urlencoded"}
TOKEN_PATH: Final = "/oauth/token"  # noqa: S105 (a path)


class Jar(dict[str, str]):
    """A browser's cookies."""

    def keep(self, answer: Answer) -> None:
        for line in answer.cookies:
            name, _, value = line.partition(";")[0].partition("=")
            self[name] = value

    @property
    def header(self) -> dict[str, str]:
        return {"cookie": "; ".join(f"{name}={value}" for name, value in self.items())}


async def authorize(
    client: PublicClient, login: str, password: str, scope: str, app: str = APP, **second: str
) -> tuple[str, str]:
    """Sign in and allow what an app asks for; returns the PKCE verifier and the code. second: a one-time password.

    Raises:
        CallFailed: the server did not send the browser back with a code.
    """
    verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(12)
    challenge = urlsafe_b64encode(sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    asked = {
        "response_type": "code",
        "client_id": app,
        "redirect_uri": CALLBACK,
        "scope": scope,
        "state": state,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    page = await client.send("GET", f"/oauth/authorize?{urlencode(asked)}")
    jar = Jar()
    entered = await submit(client, page, jar, login=login, password=password, decision="sign-in", **second)
    # Allowed before, nobody is asked again.
    done = entered if entered.status == 303 else await submit(client, entered, jar, decision="allow")
    if done.status != 303:
        raise done.refused()
    target = urlsplit(done.headers["location"])
    answer = parse_qs(target.query)
    if (f"{target.scheme}://{target.netloc}{target.path}", answer["state"]) != (CALLBACK, [state]):
        raise CallFailed("the browser was sent elsewhere")
    return verifier, answer["code"][0]


async def submit(client: PublicClient, page: Answer, jar: Jar, **fields: str) -> Answer:
    """Send the first form of a page. CallFailed for a page without one."""
    if page.status != 200:
        raise page.refused()
    jar.keep(page)
    html = page.body.decode()
    form = {"csrf": _attribute(html, r'name="csrf" value="([^"]*)"')} | fields
    action = _attribute(html, r'action="([^"]*)"')
    answer = await client.send("POST", action, urlencode(form).encode(), FORM | jar.header)
    jar.keep(answer)
    return answer


class App:
    """An app with a key that its tokens are bound to."""

    def __init__(self) -> None:
        self.key = ProofKey()

    async def redeem(self, client: PublicClient, code: str, verifier: str) -> Answer:
        """What the token endpoint gives for a code."""
        form = {
            "grant_type": "authorization_code",
            "client_id": APP,
            "code": code,
            "redirect_uri": CALLBACK,
            "code_verifier": verifier,
        }
        return await self.ask(client, form)

    async def refresh(self, client: PublicClient, token: str) -> Answer:
        """What it gives for a refresh token."""
        return await self.ask(client, {"grant_type": "refresh_token", "client_id": APP, "refresh_token": token})

    async def ask(self, client: PublicClient, form: Mapping[str, str]) -> Answer:
        """The answer to a form with a proof of the key."""
        body = urlencode(form).encode()

        def send(proof: Mapping[str, str]) -> Awaitable[Answer]:
            return client.send("POST", TOKEN_PATH, body, {**FORM, **proof})

        return await self.key.send("POST", client.url + TOKEN_PATH, 400, send)


def _attribute(html: str, pattern: str) -> str:
    found = re.search(pattern, html)
    if found is None:
        raise CallFailed("the page has no form")
    return unescape(found[1])
