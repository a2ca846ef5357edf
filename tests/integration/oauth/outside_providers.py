"""Identity providers on this machine, over TLS 1.3: a second instance of our own authorization server, which speaks
OpenID Connect, and WeChat's OAuth as its documentation has it.

Whoever is sent to WeChat is signed in at once as whom the test says; at the other one they sign in.
"""

import itertools
import json
import secrets
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import aiohttp
import psycopg
from aiohttp import web
from joserfc.jwk import ECKey
from yarl import URL

from security.oauth.passwords import PasswordChecker
from tests.integration.oauth.authorization_servers import Deployment, prepared, running
from tests.integration.oauth.browser import LOGIN, PASSWORD
from tests.integration.room import plain

CLIENT_ID: Final = "sandbox"
APPID: Final = "wx0000000000000002"
# A character that must be quoted in a query and in a form.
# Of a client there that has no secret.
KEYED: Final = "relying"
KEY: Final = ECKey.generate_key("P-256")
SECRET: Final = "sandbox-secret+of/isthmus"
CODE_LIFE_S: Final = 60.0
# Who has an account at our second instance, by login: the second is called there as the member is called here.
SOMEBODY, SOMEBODY_ELSE = "augusta", LOGIN
PEOPLE: Final = {SOMEBODY: "a1b2c3", SOMEBODY_ELSE: "mallory"}

FILE: Final = "providers.toml"
_addresses = itertools.count(1)


def write_settings(folder: Path, port: int, root: Path) -> Path:
    """The file that names one provider of each kind at this port. root: who signed their certificate."""
    base = f"https://127.0.0.1:{port}"
    (folder / "provider.secret").write_text(SECRET)
    (folder / "provider.pem").write_bytes(KEY.as_pem(private=True))
    trusted = f'ca_file = "{root}"\n'
    both = f'secret_file = "provider.secret"\n{trusted}'
    file = folder / FILE
    file.write_text(
        f'[openid]\nkind = "openid"\ntitle = "Sandbox"\nissuer = "{base}"\nclient_id = "{CLIENT_ID}"\n{both}'
        f'[keyed]\nkind = "openid"\ntitle = "Sandbox by key"\nissuer = "{base}"\nclient_id = "{KEYED}"\n'
        f'key_file = "provider.pem"\n{trusted}'
        f'[wechat]\nkind = "wechat"\ntitle = "WeChat"\ntitle_zh = "微信"\nappid = "{APPID}"\n'
        f'connect_url = "{base}/connect/qrconnect"\napi_url = "{base}"\n{both}'
    )
    return file


@contextmanager
def second_instance(home: Path, url: str, port: int, relying: str) -> Iterator[Deployment]:
    """Our own server as an identity provider, with a database of its own at `url`. relying: who is called back."""
    settings = {"ISTHMUS_SANDBOX_CALLBACK": f"{relying}/oauth/callback/openid"}
    clients = home / "run" / "oauth" / "clients"
    clients.mkdir(parents=True)
    (clients / "sandbox.secret").write_text(SECRET)
    (clients / "sandbox.secret").chmod(0o600)
    deployed = prepared(home, url, issuer=f"https://127.0.0.1:{port}", settings=settings)
    # As accounts lay there before logins were sealed: the server does it when it starts.
    hashed = PasswordChecker().hash(PASSWORD)
    keyed = (
        "INSERT INTO oauth.clients (client_id, name, grants, scopes, redirect_uris, authentication, jwks, bound)"
        " VALUES (%s, 'Relying', '{authorization_code}', '{openid}', %s, 'private_key_jwt', %s, false)"
    )
    jwks = json.dumps({"keys": [{**KEY.as_dict(private=False), "kid": KEY.thumbprint()}]})
    with psycopg.connect(plain(url)) as connection:
        connection.execute(keyed, (KEYED, [f"{relying}/oauth/callback/keyed"], jwks))
        for login, member_id in PEOPLE.items():
            account = "INSERT INTO oauth.accounts (member_id, login, password_hash, failures) VALUES (%s, %s, %s, 0)"
            connection.execute(account, (member_id, login, hashed))
    with running(deployed, replicas=1):
        yield deployed


@dataclass
class OutsideProviders:
    """Both kinds at one address: WeChat's pages are answered here, all else as gateways would pass it on to `sandbox`.

    tamper: what a test changes in the JSON of an answer, by the path that was asked for. given: what the token endpoint
    has answered so far.
    """

    sandbox: Deployment
    wechat: "Wechat"
    tamper: dict[str, Callable[[dict[str, Any]], None]] = field(default_factory=dict)
    given: list[dict[str, Any]] = field(default_factory=list)
    protocols: set[str] = field(default_factory=set)

    @classmethod
    def before(cls, sandbox: Deployment, relying: str) -> "OutsideProviders":
        """Where `write_settings` says, for the server that is called `relying`."""
        return cls(sandbox, Wechat(f"{relying}/oauth/callback/wechat"))

    @property
    def base(self) -> str:
        return self.sandbox.issuer

    async def serve(self, identity: Path) -> web.AppRunner:
        """Listen with a certificate of the mesh's kind, until the runner's cleanup."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(identity / "svid.pem", identity / "key.pem")
        app = web.Application(middlewares=[self._noted])
        self.wechat.add_to(app)
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", urlsplit(self.base).port, ssl_context=context).start()
        return runner

    def reset(self) -> None:
        """Behave again."""
        self.tamper.clear()
        self.wechat.subject, self.wechat.refuses = "a1b2c3", False

    @web.middleware
    async def _noted(self, request: web.Request, handler: Any) -> web.StreamResponse:
        tls = request.transport.get_extra_info("ssl_object") if request.transport else None
        if isinstance(tls, ssl.SSLObject):
            self.protocols.add(str(tls.version()))
        answered: web.StreamResponse = await handler(request)
        # No connection outlives its answer, so that none is left when the server goes.
        answered.force_close()
        return answered

    async def _pass_on(self, request: web.Request) -> web.Response:
        sent = {name: value for name, value in request.headers.items() if name.lower() not in _OF_A_CONNECTION}
        sent["x-forwarded-for"] = f"2001:db8:1::{next(_addresses):x}, 127.0.0.1"
        url = URL(f"https://127.0.0.1:{self.sandbox.http_ports[0]}{request.raw_path}", encoded=True)
        connector = aiohttp.TCPConnector(ssl=self.sandbox.tls("core-gateway"))
        async with (
            aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.request(
                request.method, url, data=await request.read(), headers=sent, allow_redirects=False
            ) as answer,
        ):
            body = await answer.read()
            headers = [each for each in answer.headers.items() if each[0].lower() not in _OF_A_CONNECTION]
        if request.path == "/oauth/token":
            self.given.append(json.loads(body))
        if request.path in self.tamper:
            said = json.loads(body)
            self.tamper[request.path](said)
            body = json.dumps(said).encode()
        passed = web.Response(status=answer.status, body=body)
        passed.headers.clear()
        for name, value in headers:
            passed.headers.add(name, value)
        return passed


_OF_A_CONNECTION: Final = frozenset({"connection", "content-length", "host", "keep-alive", "transfer-encoding"})


@dataclass
class Granted:
    """An authorization code, and the request that it was given for."""

    asked: dict[str, str]
    subject: str
    expires: float


@dataclass
class Wechat:
    """WeChat for one website application. subject: who is signed in there. refuses: they say no."""

    callback: str
    subject: str = "a1b2c3"
    refuses: bool = False
    codes: dict[str, Granted] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/connect/qrconnect", self._connect)
        app.router.add_get("/sns/oauth2/access_token", self._access_token)
        app.router.add_get("/sns/userinfo", self._userinfo)

    async def _connect(self, request: web.Request) -> web.Response:
        asked = dict(request.query)
        # It shows an error for any other order.
        assert list(asked) == ["appid", "redirect_uri", "response_type", "scope", "state"]
        assert (asked["appid"], asked["scope"]) == (APPID, "snsapi_login")
        assert asked["redirect_uri"] == self.callback
        given = {"state": asked["state"]}
        # Who says no is sent back with the state alone.
        if not self.refuses:
            given["code"] = secrets.token_urlsafe(24)
            self.codes[given["code"]] = Granted(asked, self.subject, time.monotonic() + CODE_LIFE_S)
        return web.Response(status=302, headers={"Location": f"{asked['redirect_uri']}?{urlencode(given)}"})

    async def _access_token(self, request: web.Request) -> web.Response:
        asked = request.query
        if (asked["appid"], asked["secret"]) != (APPID, SECRET):
            return self._said({"errcode": 40125, "errmsg": "invalid appsecret"})
        granted = self.codes.pop(asked["code"], None)
        if granted is None or granted.expires < time.monotonic() or asked["grant_type"] != "authorization_code":
            return self._said({"errcode": 40029, "errmsg": "invalid code"})
        token = secrets.token_urlsafe(24)
        self.tokens[token] = granted.subject
        said = {
            "access_token": token,
            "expires_in": 7200,
            "refresh_token": secrets.token_urlsafe(24),
            "openid": f"openid-{granted.subject}",
            "scope": granted.asked["scope"],
        }
        return self._said(said)

    async def _userinfo(self, request: web.Request) -> web.Response:
        subject = self.tokens.get(request.query["access_token"])
        if subject is None or request.query["openid"] != f"openid-{subject}":
            return self._said({"errcode": 40003, "errmsg": "invalid openid"})
        return self._said({"openid": f"openid-{subject}", "nickname": "名", "unionid": f"union-{subject}"})

    def _said(self, said: dict[str, Any]) -> web.Response:
        """200 whatever happened, and not called JSON."""
        return web.Response(text=json.dumps(said, ensure_ascii=False), content_type="text/plain")
