"""The rules of publishing."""

import pytest

from private_core.catalog.domain import canonical_locale, check_creatives, check_link, check_schedule, check_title
from private_core.catalog.markup import sanitised
from private_core.refusals import Malformed


@pytest.mark.parametrize(("starts", "ends"), [(0, 0), (5, 0), (0, 5), (5, 6)])
def test_a_schedule_has_a_span(starts: int, ends: int) -> None:
    check_schedule(starts, ends)


@pytest.mark.parametrize(("starts", "ends"), [(5, 5), (6, 5)])
def test_a_schedule_without_a_span_is_refused(starts: int, ends: int) -> None:
    with pytest.raises(Malformed, match="SCHEDULE_EMPTY"):
        check_schedule(starts, ends)


def test_creatives_have_ids_of_their_own() -> None:
    check_creatives(["a", "b"])
    with pytest.raises(Malformed, match="CREATIVE_TWICE"):
        check_creatives(["a", "b", "a"])


@pytest.mark.parametrize(
    "link", ["https://shop.example/p?x=1#y", "https://shop.example:8443", "https://[2001:db8::1]/"]
)
def test_a_link_is_https_to_a_host(link: str) -> None:
    check_link(link)


@pytest.mark.parametrize(
    "link",
    [
        "http://shop.example/",
        "javascript:alert(1)",
        "//shop.example/",
        "https:///path",
        "https://user@shop.example/",
        "https://:word@shop.example/",
        "https://shop.example:port/",
        "https://shop.example\\@evil.example/",
        "https://shop.example/a b",
        "https://shop.example/\u202egpj",
        "https://[bad/",
    ],
)
def test_any_other_link_is_refused(link: str) -> None:
    with pytest.raises(Malformed, match="LINK_UNSAFE"):
        check_link(link)


@pytest.mark.parametrize("title", ["", "  ", "a\nb", "a\x00b", "a\u202eb"])
def test_a_title_is_printable(title: str) -> None:
    check_title("春 · Spring")
    with pytest.raises(Malformed):
        check_title(title)


@pytest.mark.parametrize(
    ("written", "canonical"),
    [("zh-cn", "zh-CN"), ("ZH-hans-cn", "zh-Hans-CN"), ("EN", "en"), ("es-419", "es-419"), ("sl-ROZAJ", "sl-rozaj")],
)
def test_a_locale_has_one_spelling(written: str, canonical: str) -> None:
    assert canonical_locale(written) == canonical
    assert canonical_locale(canonical) == canonical


@pytest.mark.parametrize(
    "body",
    [
        "<script>x()</script>",
        '<img src=x onerror="x()">',
        '<a href="javascript:x()">a</a>',
        '<iframe src="https://e.example"></iframe>',
        '<p style="position:fixed">a</p>',
        "<form action=https://e.example><input></form>",
        "<svg><script>x()</script></svg>",
        '<math><mi xlink:href="data:x,<script>x()</script>"></math>',
        "<!-- <script> -->",
        '<img src="http://plain.example/a.png">',
    ],
)
def test_what_runs_or_frames_or_tracks_does_not_survive(body: str) -> None:
    clean = sanitised(body)
    for bad in ("script", "onerror", "javascript", "iframe", "style", "<form", "<svg", "<math", "<!--", "http:"):
        assert bad not in clean
    assert sanitised(clean) == clean


def test_text_and_safe_links_survive() -> None:
    body = '<h1>Ti</h1><p>Hello <em>you</em> &amp; <a href="https://a.example">us</a></p>'
    assert sanitised(body) == body.replace('example"', 'example" rel="noopener noreferrer nofollow"')
