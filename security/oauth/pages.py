"""The pages: rendered here, they work without script, and can be neither framed, scripted by others nor forged.

Only a passkey needs a script: one of a few lines, known to the browser by its hash.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import HTMLResponse

from mesh.clock import Clock

# How long a page may lie open before it is sent.
FORM_LIFE_S = 900

_DIRECTORY = Path(__file__).parent / "pages"


class Pages:
    """`csrf_key` is shared by the replicas: a page of one may be sent to the other. issuer: their name outside."""

    def __init__(self, csrf_key: bytes, clock: Clock, issuer: str) -> None:
        # Browsers keep cookies by host and not by port: two meshes of one host must not sign each other's members out.
        port = urlsplit(issuer).port
        mark = f"-{port}" if port else ""
        self.cookie = f"__Host-isthmus-csrf{mark}"
        self.session_cookie = f"__Host-isthmus-session{mark}"
        self._key = csrf_key
        self._clock = clock
        self._templates = Environment(
            loader=FileSystemLoader(_DIRECTORY), autoescape=True, undefined=StrictUndefined, auto_reload=False
        )
        self._style = (_DIRECTORY / "style.css").read_text()
        self._script = (_DIRECTORY / "passkey.js").read_text()

    def form(
        self,
        template: str,
        words: Mapping[str, Any],
        *,
        cookie: str,
        about: str,
        action: str,
        status: int = 200,
        redirect_uri: str = "",
        passkey: str = "",
        **values: Any,
    ) -> HTMLResponse:
        """A page with a form that can be sent from this browser alone, and for `about` alone.

        redirect_uri: where the answer to the form may send the browser. passkey: the options for the browser, as JSON.
        values: what else the template shows; `problem` is one of the words.
        """
        target = urlsplit(redirect_uri)
        origin = f"{target.scheme}://{target.netloc}" if redirect_uri else ""
        page = self._templates.get_template(template).render(
            style=Markup(self._style),  # noqa: S704 (a file of ours)
            script=Markup(self._script) if passkey else "",  # noqa: S704
            words=words,
            action=action,
            csrf=self._token(cookie, about, int(self._clock.now_us() // 1_000_000)),
            passkey=passkey,
            target=origin,
            **({"problem": ""} | values),
        )
        # Browsers apply form-action to the redirect that answers the form, too.
        headers = self._headers(f"'self' {origin}".rstrip(), scripted=bool(passkey))
        return self.tied(HTMLResponse(page, status, headers=headers), cookie)

    def tied(self, response: HTMLResponse, cookie: str) -> HTMLResponse:
        """Let the browser keep what ties it to a page for as long as that may lie open."""
        response.set_cookie(
            self.cookie, cookie, max_age=FORM_LIFE_S, path="/", secure=True, httponly=True, samesite="lax"
        )
        return response

    def plain(self, template: str, words: Mapping[str, Any], status: int = 200, **values: Any) -> HTMLResponse:
        """A page without a form."""
        page = self._templates.get_template(template).render(
            style=Markup(self._style),  # noqa: S704 (a file of ours)
            script="",
            words=words,
            **values,
        )
        return HTMLResponse(page, status, headers=self._headers("'self'", scripted=False))

    def error(self, words: Mapping[str, Any], status: int, error: str, description: str) -> HTMLResponse:
        """For people whose request cannot be sent back to where it came from."""
        return self.plain("error.html", words, status, error=error, description=description)

    def forged(self, cookie: str, about: str, token: str) -> bool:
        """Whether a form did not come from a page that was made here, for this browser and just this."""
        made, _, _ = token.partition(".")
        if not cookie or not made.isascii() or not made.isdigit() or len(made) > 12:
            return True
        age_s = self._clock.now_us() // 1_000_000 - int(made)
        expected = self._token(cookie, about, int(made))
        return not hmac.compare_digest(token.encode(), expected.encode()) or not -5 <= age_s <= FORM_LIFE_S

    def _token(self, cookie: str, about: str, made_s: int) -> str:
        mark = hmac.digest(self._key, f"{made_s}\0{cookie}\0{about}".encode(), hashlib.sha256)
        return f"{made_s}.{base64.urlsafe_b64encode(mark).rstrip(b'=').decode()}"

    def _headers(self, form_action: str, *, scripted: bool) -> Mapping[str, str]:
        script = f"script-src {_hash(self._script)}; " if scripted else ""
        return {
            "Content-Security-Policy": (
                f"default-src 'none'; style-src {_hash(self._style)}; {script}form-action {form_action}; "
                "frame-ancestors 'none'; base-uri 'none'"
            ),
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
        }


def new_cookie() -> str:
    """What ties forms to one browser."""
    return secrets.token_urlsafe(32)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
