"""What a browser app does: opens the page, sends the form, follows the redirect, redeems the code."""

import base64
import hashlib
import re
import secrets
from html import unescape
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.integration.oauth.authorization_servers import Deployment, Reply

MEMBER, LOGIN, PASSWORD = "5f0c7714-3f2a-4c1e-9b7d-0a6e2d9c4b10", "grace", "correct horse battery"
CALLBACK = "http://127.0.0.1:49152/callback"


class Browser:
    """What a browser app does: a verifier of its own, the page, the form, the redirect."""

    def __init__(self, deployment: Deployment, replica: int = 0) -> None:
        self.deployment = deployment
        self.replica = replica
        self.cookies: dict[str, str] = {}
        self.verifier = secrets.token_urlsafe(32)
        digest = hashlib.sha256(self.verifier.encode()).digest()
        self.request = {
            "response_type": "code",
            "client_id": "shop-web",
            "redirect_uri": CALLBACK,
            "scope": "orders.read orders.write",
            "state": "s&t=1",
            "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }

    def open(self) -> Reply:
        path = f"/oauth/authorize?{urlencode(self.request)}"
        return self.keep(self.deployment.call("GET", path, headers=self.headers, replica=self.replica))

    def send(self, page: Reply, /, *, to: int | None = None, fields: dict[str, str] | None = None) -> Reply:
        """Send the form of a page, with the cookies that came with it and with those before."""
        text = page.body.decode()
        action = re.search(r'action="([^"]+)"', text)
        csrf = re.search(r'name="csrf" value="([^"]+)"', text)
        assert action
        assert csrf
        form = {"csrf": csrf[1], "login": LOGIN, "password": PASSWORD, "decision": "sign-in"} | (fields or {})
        return self.keep(
            self.deployment.call(
                "POST",
                unescape(action[1]),
                form=form,
                headers=self.headers,
                replica=self.replica if to is None else to,
            )
        )

    def keep(self, reply: Reply) -> Reply:
        """Take up the cookies of an answer, as a browser does."""
        for line in reply.headers.get("set-cookie", "").splitlines():
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies[name] = value
        return reply

    @property
    def headers(self) -> dict[str, str]:
        return {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items() if value)}

    def allow(self, page: Reply, /, decision: str = "allow", to: int | None = None) -> Reply:
        """Decide on the page that asks for consent."""
        assert page.status == 200, page.body
        assert b'value="allow"' in page.body, page.body
        return self.send(page, to=to, fields={"decision": decision})

    def sign_in(self, **fields: str) -> Reply:
        """Sign in and allow; the answer to whichever of the two failed."""
        entered = self.send(self.open(), fields=fields)
        return self.allow(entered) if entered.status == 200 else entered

    def code(self) -> str:
        return returned(self.sign_in())["code"]

    def redeem(self, code: str, replica: int = 0, changes: dict[str, str] | None = None) -> Reply:
        form = {
            "grant_type": "authorization_code",
            "client_id": "shop-web",
            "code": code,
            "redirect_uri": CALLBACK,
            "code_verifier": self.verifier,
        }
        sent = {name: value for name, value in (form | (changes or {})).items() if value}
        return self.deployment.call("POST", "/oauth/token", form=sent, replica=replica)


def returned(reply: Reply) -> dict[str, str]:
    """The parameters with which the browser is sent back."""
    assert reply.status == 303, reply.body
    assert reply.headers["location"].startswith(CALLBACK + "?")
    return {name: value for name, [value] in parse_qs(urlsplit(reply.headers["location"]).query).items()}
