"""Which locale answers, and when a cache is told that it has the page already."""

import pytest

from public_edge.content.domain import Item, Page, Shelf, is_unchanged, preferred_locales


def item(locale: str, *, default: bool = False, title: str = "title", version: int = 1, slug: str = "about") -> Item:
    return Item(slug, locale, title, "<p>body</p>", version, 60, default)


@pytest.fixture
def shelf() -> Shelf:
    shelf = Shelf()
    items = [item("en", default=True), item("zh-CN"), item("zh"), item("pt-BR")]
    shelf.apply({entry.item_id: entry for entry in items})
    return shelf


@pytest.mark.parametrize(
    ("wanted", "served"),
    [
        (["zh-CN"], "zh-CN"),
        (["ZH-cn"], "zh-CN"),
        (["zh-CN-x-more"], "zh-CN"),
        (["zh-TW"], "zh"),
        (["fr", "pt-BR"], "pt-BR"),
        (["pt"], "en"),
        (["fr"], "en"),
        ([], "en"),
    ],
)
def test_a_locale_falls_back_to_its_language_and_then_to_the_default(
    shelf: Shelf, wanted: list[str], served: str
) -> None:
    page = shelf.library().find("about", wanted)
    assert page is not None
    assert page.item.locale == served


def test_without_a_default_an_unknown_language_finds_nothing() -> None:
    shelf = Shelf()
    shelf.apply({"about/de": item("de")})
    assert shelf.library().find("about", ["fr"]) is None
    assert shelf.library().find("other", ["de"]) is None


def test_a_removed_item_is_gone_and_leaves_the_others(shelf: Shelf) -> None:
    shelf.apply({"about/zh-CN": None})
    page = shelf.library().find("about", ["zh-CN"])
    assert page is not None
    assert page.item.locale == "zh"
    shelf.apply({"about/en": None, "about/zh": None, "about/pt-BR": None})
    assert shelf.library().find("about", ["en"]) is None


def test_another_text_or_version_has_another_etag() -> None:
    etags = {Page.of(entry).etag for entry in (item("en"), item("en", title="x"), item("en", version=2), item("de"))}
    assert len(etags) == 4
    assert Page.of(item("en")).etag == Page.of(item("en")).etag


@pytest.mark.parametrize(
    ("header", "unchanged"),
    [('"a"', True), ('W/"a"', True), ('"b", "a"', True), ("*", True), ('"b"', False), ("a", False), ("", False)],
)
def test_if_none_match_compares_weakly(header: str, unchanged: bool) -> None:
    assert is_unchanged(header, '"a"') is unchanged


@pytest.mark.parametrize(
    ("header", "locales"),
    [
        ("da, en-gb;q=0.8, en;q=0.7", ["da", "en-gb", "en"]),
        ("en;q=0.1, zh-CN", ["zh-CN", "en"]),
        ("en;q=0, *", []),
        ("", []),
        (";;;,,,q=,\x00", []),
    ],
)
def test_accept_language_is_read_by_quality(header: str, locales: list[str]) -> None:
    assert preferred_locales(header) == locales
