"""Pages in two languages, without script, with nothing of a request in them that was not escaped."""

import re

import pytest

from mesh.clock import SystemClock
from security.oauth.pages import Pages
from security.oauth.words import CHINESE, ENGLISH, words_for

PAGES = Pages(b"k" * 32, SystemClock())
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


def test_both_languages_say_everything() -> None:
    assert ENGLISH.keys() == CHINESE.keys()
    assert all(value for words in (ENGLISH, CHINESE) for value in words.values())


@pytest.mark.parametrize("words", [ENGLISH, CHINESE], ids=["en", "zh"])
def test_every_page_is_safe_and_in_its_language(words: dict[str, str]) -> None:
    signing_in = PAGES.sign_in(
        words=words,
        client=EVIL,
        scopes=[EVIL],
        redirect_uri="https://shop.example/cb",
        query=EVIL,
        cookie=None,
        problem="wrong",
    )
    asking = {"words": words, "scopes": [EVIL], "cookie": None, "problem": "unknown_code", "status": 403}
    connecting = [PAGES.device(client=name, user_code=EVIL, query="q", **asking) for name in (EVIL, "")]  # type: ignore[arg-type]
    done = [PAGES.device_done(words, allowed) for allowed in (True, False)]
    for page in (signing_in, *connecting, *done, PAGES.error(words, 400, EVIL, EVIL)):
        text = bytes(page.body).decode()
        assert f'<html lang="{words["language"]}">' in text
        assert "<script" not in text
        assert not re.search(r"\son[a-z]+=", text)
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src" not in policy
        assert "frame-ancestors 'none'" in policy
    assert words["wrong"] in bytes(signing_in.body).decode()
