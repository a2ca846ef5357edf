"""Pages in two languages, without script, with nothing of a request in them that was not escaped."""

import re
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from mesh.clock import SystemClock
from security.oauth.domain import Consent, Session
from security.oauth.federation.store import Connected
from security.oauth.pages import Pages
from security.oauth.passkeys import Passkey
from security.oauth.words import CHINESE, ENGLISH, words_for

PAGES = Pages(b"k" * 32, SystemClock(), "https://id.example")
SHOP = "https://shop.example/cb"
EVIL = "<script>alert(1)</script>"


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-GB,zh;q=0.9", "en"),
        ("en;q=0.1,zh;q=0.2", "zh"),
        ("fr-FR,fr;q=0.9", "en"),
        ("fr,zh-TW;q=0.5", "zh"),
        ("zh;q=x,en", "en"),
        ("," * 5000, "en"),
    ],
)
def test_a_page_is_in_the_language_that_the_browser_prefers(header: str, language: str) -> None:
    assert words_for(header)["language"] == language


def test_two_meshes_of_one_host_have_cookies_of_their_own() -> None:
    one, other = (Pages(b"k" * 32, SystemClock(), f"https://localhost:{port}") for port in (18400, 19400))
    assert len({one.cookie, one.session_cookie, other.cookie, other.session_cookie}) == 4
    assert PAGES.session_cookie == "__Host-isthmus-session"


def test_both_languages_say_everything() -> None:
    assert ENGLISH.keys() == CHINESE.keys()
    assert all(value for words in (ENGLISH, CHINESE) for value in words.values())


@pytest.mark.parametrize("words", [ENGLISH, CHINESE], ids=["en", "zh"])
def test_every_page_is_safe_and_in_its_language(words: dict[str, Any]) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    own = Session(EVIL, "m", EVIL, now, now, "", "pwd", EVIL)
    form = partial(PAGES.form, words=words, cookie="c", about=EVIL, action=EVIL)
    signing_in = form(
        "sign_in.html",
        passkey=EVIL,
        client=EVIL,
        user_code=EVIL,
        providers={EVIL: EVIL},
        problem="wrong",
        redirect_uri=SHOP,
        step_up=True,
    )
    second = form("second.html", state=EVIL, problem="wrong")
    consent = form("consent.html", client=EVIL, scopes=[EVIL], login=EVIL, user_code=EVIL, redirect_uri=SHOP)
    account = form(
        "account.html",
        passkey=EVIL,
        own=own,
        sessions=[own],
        passkeys=[Passkey(EVIL, EVIL, now)],
        providers={EVIL: EVIL, "other": EVIL},
        identities=[Connected(EVIL, now), Connected("gone", now)],
        consents=[Consent(EVIL, EVIL, frozenset({EVIL}), now)],
    )
    plain = [PAGES.plain("device_done.html", words, allowed=allowed) for allowed in (True, False)]
    plain += [PAGES.plain("device.html", words, problem="unknown_code"), PAGES.error(words, 400, EVIL, EVIL)]
    plain += [PAGES.plain("leaving.html", words, provider=EVIL, address=EVIL)]
    plain += [PAGES.plain("not_signed_in.html", words, 403, provider=EVIL, back=EVIL, problem="provider_away")]
    for page in (signing_in, second, consent, account, *plain):
        text = bytes(page.body).decode()
        assert f'<html lang="{words["language"]}">' in text
        assert "alert(1)</script>" not in text
        assert not re.search(r"\son[a-z]+=", text)
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        # The passkey's script, known by its hash, and only where there is one.
        assert text.count("<script>") == ("script-src 'sha256-" in policy) == ('id="passkey"' in text)
    assert words["wrong"] in bytes(signing_in.body).decode()
