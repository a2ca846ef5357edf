"""What a browser app does: opens the page, sends the form, follows the redirect, redeems the code."""

import base64
import hashlib
import re
import secrets
from html import unescape
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.integration.oauth.authorization_servers import Deployment, Reply

LOGIN, PASSWORD = "grace", "correct horse battery"
CALLBACK = "http://127.0.0.1:49152/callback"


class Browser:
    """What a browser app does: a verifier of its own, the page, the form, the redirect."""

    def __init__(self, deployment: Deployment, replica: int = 0) -> None:
        self.deployment = deployment
        self.replica = replica
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
        return self.deployment.call("GET", f"/oauth/authorize?{urlencode(self.request)}", replica=self.replica)

    def send(self, page: Reply, /, *, to: int | None = None, fields: dict[str, str] | None = None) -> Reply:
        text = page.body.decode()
        action = re.search(r'action="([^"]+)"', text)
        csrf = re.search(r'name="csrf" value="([^"]+)"', text)
        assert action
        assert csrf
        form = {"csrf": csrf[1], "login": LOGIN, "password": PASSWORD, "decision": "allow"} | (fields or {})
        return self.deployment.call(
            "POST",
            unescape(action[1]),
            form=form,
            headers={"Cookie": page.headers["set-cookie"].split(";")[0]},
            replica=self.replica if to is None else to,
        )

    def sign_in(self, **fields: str) -> Reply:
        return self.send(self.open(), fields=fields)

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
