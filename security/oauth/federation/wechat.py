"""WeChat's open platform, website applications: OAuth with its own names and no ID token.

The client is an `appid`, the answer of the token endpoint is 200 whatever happened, PKCE, nonce and `iss` are not
known. So what protects it is `state`, bound to the browser and good once; a redirect target of its own; and that the
code is redeemed from here alone, over TLS, with the secret.
"""

import asyncio
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode

from mesh.clock import Clock
from security.oauth.federation.fetch import Fetch
from security.oauth.federation.port import AwayError, NotProvenError, Person, Secrets, Wanted
from security.oauth.federation.settings import WechatSettings

TIMEOUT_S: Final = 4.0
SCOPE: Final = "snsapi_login"
_ID: Final = re.compile(r"[A-Za-z0-9_-]{6,128}")
# Its own trouble: busy, and too many calls of this application in a minute.
_BUSY: Final = frozenset({-1, 45009, 45011})


class WechatProvider:
    """A `Provider`."""

    def __init__(self, settings: WechatSettings, secret: str, redirect_uri: str, fetch: Fetch, clock: Clock) -> None:
        self._settings = settings
        self._secret = secret
        self._redirect_uri = redirect_uri
        self._fetch = fetch
        self._clock = clock
        self.titles = settings.titles
        # An openid is somebody in this application alone; a unionid is the same in all of one owner.
        self._authority = "wechat:unionid" if settings.subject == "unionid" else f"wechat:openid:{settings.appid}"

    async def address(self, secrets: Secrets, wanted: Wanted) -> str:
        asked = {
            "appid": self._settings.appid,
            "redirect_uri": self._redirect_uri,
            "response_type": "code",
            "scope": SCOPE,
            "state": secrets.state,
        }
        # In this order, and with this fragment, or it shows an error.
        return f"{self._settings.connect_url}?{urlencode(asked)}#wechat_redirect"

    async def person(self, answer: Mapping[str, str], secrets: Secrets, wanted: Wanted) -> Person:
        if "code" not in answer:
            # Who says no is sent back with the state alone.
            raise NotProvenError("DENIED_THERE")
        try:
            async with asyncio.timeout(TIMEOUT_S):
                subject = await self._subject(answer["code"])
        except TimeoutError:
            raise AwayError("it took too long") from None
        # It keeps no session: whoever comes back has just confirmed it on their telephone.
        return Person(self._authority, subject, datetime.fromtimestamp(self._clock.now_us() / 1e6, UTC))

    async def _subject(self, code: str) -> str:
        given = await self._ask(
            "/sns/oauth2/access_token",
            appid=self._settings.appid,
            secret=self._secret,
            code=code,
            grant_type="authorization_code",
        )
        if SCOPE not in str(given.get("scope", "")).split(","):
            raise NotProvenError("SCOPE_OTHER", "the code was given for something else")
        openid = _id(given, "openid")
        if self._settings.subject == "openid":
            return openid
        if "unionid" not in given:
            # It is left out there for some applications, and told here.
            token = given.get("access_token")
            given = await self._ask("/sns/userinfo", access_token=str(token), openid=openid)
            if _id(given, "openid") != openid:
                raise NotProvenError("OPENID_OTHER", "two answers name two people")
        return _id(given, "unionid")

    async def _ask(self, path: str, **asked: str) -> dict[str, Any]:
        status, said = await self._fetch(f"{self._settings.api_url}{path}?{urlencode(asked)}")
        code = said.get("errcode", 0)
        if status != 200 or code in _BUSY:
            raise AwayError(f"it answered {status}, errcode {code}")
        if code != 0:
            raise NotProvenError("CODE_REFUSED", f"errcode {code}"[:96])
        return said


def _id(said: Mapping[str, Any], name: str) -> str:
    value = said.get(name)
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise NotProvenError(f"{name.upper()}_MISSING")
    return value
