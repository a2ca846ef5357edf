"""The sign-in page: rendered here, works without script, and can be neither framed, scripted nor forged."""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse

from mesh.clock import Clock

COOKIE = "__Host-isthmus-csrf"
# How long the page may lie open before it is sent.
FORM_LIFE_S = 900
# What stands for the query where a form has none of its own.
DEVICE_FORM = "device"

_DIRECTORY = Path(__file__).parent / "pages"


class Pages:
    """`csrf_key` is shared by the replicas: a page of one may be sent to the other."""

    def __init__(self, csrf_key: bytes, clock: Clock) -> None:
        self._key = csrf_key
        self._clock = clock
        self._templates = Environment(
            loader=FileSystemLoader(_DIRECTORY), autoescape=True, undefined=StrictUndefined, auto_reload=False
        )
        self._style = (_DIRECTORY / "style.css").read_text()
        self._style_hash = base64.b64encode(hashlib.sha256(self._style.encode()).digest()).decode()

    def sign_in(
        self,
        *,
        words: Mapping[str, str],
        client: str,
        scopes: Iterable[str],
        redirect_uri: str,
        query: str,
        cookie: str | None,
        problem: str = "",
        status: int = 200,
    ) -> HTMLResponse:
        """The form for the authorization request `query`. Sets the cookie that the form must come back with.

        problem: one of the words.
        """
        cookie = cookie or secrets.token_urlsafe(32)
        target = urlsplit(redirect_uri)
        origin = f"{target.scheme}://{target.netloc}"
        page = self._templates.get_template("authorize.html").render(
            style=self._style,
            words=words,
            client=client,
            scopes=sorted(scopes),
            target=origin,
            problem=problem,
            action=f"/oauth/authorize?{query}",
            csrf=self._token(cookie, query, int(self._clock.now_us() // 1_000_000)),
        )
        # Browsers apply form-action to the redirect that answers the form, too.
        response = HTMLResponse(page, status, headers=self._headers(f"'self' {origin}"))
        response.set_cookie(COOKIE, cookie, max_age=FORM_LIFE_S, path="/", secure=True, httponly=True, samesite="lax")
        return response

    def device(
        self,
        *,
        words: Mapping[str, str],
        client: str,
        scopes: Iterable[str],
        user_code: str,
        query: str,
        cookie: str | None,
        problem: str,
        status: int,
    ) -> HTMLResponse:
        """The form for a device's code; with the client and what it asks for, once the code is known."""
        cookie = cookie or secrets.token_urlsafe(32)
        page = self._templates.get_template("device.html").render(
            style=self._style,
            words=words,
            client=client,
            scopes=sorted(scopes),
            user_code=user_code,
            problem=problem,
            csrf=self._token(cookie, query, int(self._clock.now_us() // 1_000_000)),
        )
        response = HTMLResponse(page, status, headers=self._headers("'self'"))
        response.set_cookie(COOKIE, cookie, max_age=FORM_LIFE_S, path="/", secure=True, httponly=True, samesite="lax")
        return response

    def device_done(self, words: Mapping[str, str], allowed: bool) -> HTMLResponse:
        """The end of it: the device will notice by itself."""
        page = self._templates.get_template("device_done.html").render(style=self._style, words=words, allowed=allowed)
        return HTMLResponse(page, headers=self._headers("'none'"))

    def error(self, words: Mapping[str, str], status: int, error: str, description: str) -> HTMLResponse:
        """For people whose request cannot be sent back to where it came from."""
        page = self._templates.get_template("error.html").render(
            style=self._style, words=words, error=error, description=description
        )
        return HTMLResponse(page, status, headers=self._headers("'none'"))

    def forged(self, cookie: str | None, query: str, token: str) -> bool:
        """Whether a form did not come from a page that was made here, for this browser and this very request."""
        made, _, _ = token.partition(".")
        if not cookie or not made.isascii() or not made.isdigit() or len(made) > 12:
            return True
        age_s = self._clock.now_us() // 1_000_000 - int(made)
        expected = self._token(cookie, query, int(made))
        return not hmac.compare_digest(token.encode(), expected.encode()) or not -5 <= age_s <= FORM_LIFE_S

    def _token(self, cookie: str, query: str, made_s: int) -> str:
        mark = hmac.digest(self._key, f"{made_s}\0{cookie}\0{query}".encode(), hashlib.sha256)
        return f"{made_s}.{base64.urlsafe_b64encode(mark).rstrip(b'=').decode()}"

    def _headers(self, form_action: str) -> Mapping[str, str]:
        return {
            "Content-Security-Policy": (
                f"default-src 'none'; style-src 'sha256-{self._style_hash}'; form-action {form_action}; "
                "frame-ancestors 'none'; base-uri 'none'"
            ),
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
        }
