"""Identity providers on this machine, over TLS 1.3: OpenID Connect, and WeChat's OAuth as its documentation has it.

Whoever is sent there is signed in at once as whom the test says; the rest is checked as real providers check it.
"""

import base64
import hashlib
import hmac
import json
import secrets
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from aiohttp import web
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

CLIENT_ID: Final = "isthmus-at-the-sandbox"
APPID: Final = "wx0000000000000002"
# A character that must be quoted in a query and in a form.
SECRET: Final = "sandbox-secret+of/isthmus"
CODE_LIFE_S: Final = 60.0

FILE: Final = "providers.toml"
Spoil = Callable[[dict[str, Any]], None]


def write_settings(folder: Path, port: int, root: Path) -> Path:
    """The file that names one provider of each kind at this port. root: who signed their certificate."""
    base = f"https://127.0.0.1:{port}"
    (folder / "provider.secret").write_text(SECRET)
    both = f'secret_file = "provider.secret"\nca_file = "{root}"\n'
    file = folder / FILE
    file.write_text(
        f'[openid]\nkind = "openid"\ntitle = "Sandbox"\nissuer = "{base}"\nclient_id = "{CLIENT_ID}"\n{both}'
        f'[wechat]\nkind = "wechat"\ntitle = "WeChat"\ntitle_zh = "微信"\nappid = "{APPID}"\n'
        f'connect_url = "{base}/connect/qrconnect"\napi_url = "{base}"\n{both}'
    )
    return file


@dataclass
class Granted:
    """An authorization code, and the request that it was given for."""

    asked: dict[str, str]
    subject: str
    expires: float


@dataclass
class OutsideProviders:
    """Both kinds in one server at `base`. subject: who is signed in there; the rest is how it misbehaves."""

    base: str
    callbacks: dict[str, str]
    subject: str = "a1b2c3"
    spoil: Spoil = lambda claims: None
    sign: Callable[["OutsideProviders", dict[str, Any]], str] | None = None
    refuses: bool = False
    oversize: bool = False
    unionid_in_token: bool = False
    keys: list[RSAKey | ECKey] = field(default_factory=list)
    codes: dict[str, Granted] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    protocols: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rotate()

    @classmethod
    def at(cls, port: int, issuer: str) -> "OutsideProviders":
        """As `write_settings` says, for the server that is called `issuer`."""
        callbacks = {kind: f"{issuer}/oauth/callback/{kind}" for kind in ("openid", "wechat")}
        return cls(f"https://127.0.0.1:{port}", callbacks)

    async def serve(self, identity: Path) -> web.AppRunner:
        """Listen with a certificate of the mesh's kind, until the runner's cleanup."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(identity / "svid.pem", identity / "key.pem")
        runner = web.AppRunner(self.app())
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", urlsplit(self.base).port, ssl_context=context).start()
        return runner

    def reset(self) -> None:
        """Behave again."""
        self.subject, self.spoil, self.sign = "a1b2c3", lambda claims: None, None
        self.refuses = self.oversize = self.unionid_in_token = False

    def rotate(self) -> None:
        """A new signing key, published from now on as the only one."""
        self.keys = [ECKey.generate_key("P-256", {"kid": secrets.token_hex(8), "use": "sig", "alg": "ES256"})]

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._noted])
        app.router.add_get("/.well-known/openid-configuration", self._discover)
        app.router.add_get("/jwks", self._jwks)
        app.router.add_get("/authorize", self._authorize)
        app.router.add_post("/token", self._token)
        app.router.add_get("/connect/qrconnect", self._connect)
        app.router.add_get("/sns/oauth2/access_token", self._access_token)
        app.router.add_get("/sns/userinfo", self._userinfo)
        return app

    @web.middleware
    async def _noted(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.asked.append(request.path)
        tls = request.transport.get_extra_info("ssl_object") if request.transport else None
        if isinstance(tls, ssl.SSLObject):
            self.protocols.add(str(tls.version()))
        answered: web.StreamResponse = await handler(request)
        # No connection outlives its answer, so that none is left when the server goes.
        answered.force_close()
        return answered

    async def _discover(self, request: web.Request) -> web.Response:
        said = {
            "issuer": self.base,
            "authorization_endpoint": f"{self.base}/authorize",
            "token_endpoint": f"{self.base}/token",
            "jwks_uri": f"{self.base}/jwks",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256", "ES256"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
        }
        if self.oversize:
            said["padding"] = "x" * 300_000
        return web.json_response(said)

    async def _jwks(self, request: web.Request) -> web.Response:
        return web.json_response({"keys": [key.as_dict(private=False) for key in self.keys]})

    async def _authorize(self, request: web.Request) -> web.Response:
        asked = dict(request.query)
        assert asked["response_type"] == "code"
        assert "openid" in asked["scope"].split()
        assert asked["client_id"] == CLIENT_ID
        assert asked["redirect_uri"] == self.callbacks["openid"]
        assert asked["code_challenge_method"] == "S256"
        assert len(asked["nonce"]) >= 22
        return self._back(asked, {"iss": self.base})

    async def _connect(self, request: web.Request) -> web.Response:
        asked = dict(request.query)
        # It shows an error for any other order.
        assert list(asked) == ["appid", "redirect_uri", "response_type", "scope", "state"]
        assert (asked["appid"], asked["scope"]) == (APPID, "snsapi_login")
        assert asked["redirect_uri"] == self.callbacks["wechat"]
        return self._back(asked, {})

    def _back(self, asked: dict[str, str], more: dict[str, str]) -> web.Response:
        given = {"state": asked["state"]} | more
        if self.refuses:
            # WeChat sends who said no back with the state alone.
            given |= {"error": "access_denied"} if more else {}
        else:
            given["code"] = secrets.token_urlsafe(24)
            self.codes[given["code"]] = Granted(asked, self.subject, time.monotonic() + CODE_LIFE_S)
        return web.Response(status=302, headers={"Location": f"{asked['redirect_uri']}?{urlencode(given)}"})

    async def _token(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        shown = base64.b64decode(request.headers["Authorization"].removeprefix("Basic ")).decode()
        if shown != f"{CLIENT_ID}:{SECRET}":
            return web.json_response({"error": "invalid_client"}, status=401)
        granted = self.codes.pop(form["code"], None)
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if (
            granted is None
            or granted.expires < time.monotonic()
            or form["grant_type"] != "authorization_code"
            or form["redirect_uri"] != granted.asked["redirect_uri"]
            or not hmac.compare_digest(challenge, granted.asked.get("code_challenge", ""))
        ):
            return web.json_response({"error": "invalid_grant"}, status=400)
        now = int(time.time())
        claims = {
            "iss": self.base,
            "sub": granted.subject,
            "aud": CLIENT_ID,
            "iat": now,
            "exp": now + 60,
            "auth_time": now,
            "nonce": granted.asked["nonce"],
        }
        self.spoil(claims)
        token = self.sign(self, claims) if self.sign else self.signed(claims)
        return web.json_response({"access_token": "unused", "token_type": "Bearer", "id_token": token})

    def signed(self, claims: dict[str, Any], key: RSAKey | ECKey | OctKey | None = None, **header: Any) -> str:
        """An ID token, signed by the key that is published unless the test says otherwise."""
        signing = key or self.keys[-1]
        named = {"alg": "ES256", "kid": self.keys[-1].kid} | header
        return jwt.encode(named, claims, signing, algorithms=["ES256", "RS256", "HS256"])

    async def _access_token(self, request: web.Request) -> web.Response:
        asked = request.query
        if (asked["appid"], asked["secret"]) != (APPID, SECRET):
            return self._wechat({"errcode": 40125, "errmsg": "invalid appsecret"})
        granted = self.codes.pop(asked["code"], None)
        if granted is None or granted.expires < time.monotonic() or asked["grant_type"] != "authorization_code":
            return self._wechat({"errcode": 40029, "errmsg": "invalid code"})
        token = secrets.token_urlsafe(24)
        self.tokens[token] = granted.subject
        said = {
            "access_token": token,
            "expires_in": 7200,
            "refresh_token": secrets.token_urlsafe(24),
            "openid": f"openid-{granted.subject}",
            "scope": granted.asked["scope"],
        }
        return self._wechat(said | ({"unionid": f"union-{granted.subject}"} if self.unionid_in_token else {}))

    async def _userinfo(self, request: web.Request) -> web.Response:
        subject = self.tokens.get(request.query["access_token"])
        if subject is None or request.query["openid"] != f"openid-{subject}":
            return self._wechat({"errcode": 40003, "errmsg": "invalid openid"})
        return self._wechat({"openid": f"openid-{subject}", "nickname": "名", "unionid": f"union-{subject}"})

    def _wechat(self, said: dict[str, Any]) -> web.Response:
        """200 whatever happened, and not called JSON."""
        return web.Response(text=json.dumps(said, ensure_ascii=False), content_type="text/plain")
