"""Which version of a content item answers, and whether a cache already has it."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

LANGUAGES_MAX = 16
ETAGS_MAX = 64


@dataclass(frozen=True, slots=True)
class Item:
    """One item in one locale."""

    slug: str
    locale: str
    title: str
    body: str
    version: int
    max_age_s: int
    default_locale: bool

    @property
    def item_id(self) -> str:
        return f"{self.slug}/{self.locale}"


@dataclass(frozen=True, slots=True, eq=False)
class Page:
    """An item as it is served. `etag` is strong (RFC 9110, section 8.8.3): another text has another."""

    item: Item
    etag: str

    @classmethod
    def of(cls, item: Item) -> "Page":
        text = json.dumps([item.slug, item.locale, item.version, item.title, item.body])
        return cls(item, f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"')


@dataclass(frozen=True, slots=True)
class Library:
    """All pages. Never changed: an update makes another one."""

    # By slug, then by locale in lower case.
    pages: Mapping[str, Mapping[str, Page]] = field(default_factory=dict)
    # By slug, the page for readers whose language is not there.
    defaults: Mapping[str, Page] = field(default_factory=dict)

    def find(self, slug: str, locales: Iterable[str]) -> Page | None:
        """The page for the first of the reader's locales that is there, each shortened from the end until it fits
        (RFC 4647, section 3.4), else the item's default. None when there is no such item.
        """
        pages = self.pages.get(slug)
        if pages is None:
            return None
        for locale in locales:
            wanted = locale.lower()
            while wanted:
                page = pages.get(wanted)
                if page is not None:
                    return page
                wanted = wanted.rpartition("-")[0]
        return self.defaults.get(slug)


class Shelf:
    """Holds the items and makes libraries of them. Belongs to one thread."""

    def __init__(self) -> None:
        self._by_id: dict[str, Item] = {}
        self._pages: dict[str, dict[str, Page]] = {}
        self._defaults: dict[str, Page] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def apply(self, changes: Mapping[str, Item | None]) -> None:
        """Put items by id; None removes."""
        slugs = set()
        for item_id, item in changes.items():
            slugs.add(item_id.partition("/")[0])
            if item is None:
                self._by_id.pop(item_id, None)
            else:
                self._by_id[item_id] = item
        items: dict[str, list[Item]] = {slug: [] for slug in slugs}
        for item in self._by_id.values():
            if item.slug in items:
                items[item.slug].append(item)
        for slug, found in items.items():
            self._pages.pop(slug, None)
            self._defaults.pop(slug, None)
            if found:
                self._pages[slug] = {item.locale.lower(): Page.of(item) for item in found}
                defaults = sorted(item.locale for item in found if item.default_locale)
                if defaults:
                    self._defaults[slug] = self._pages[slug][defaults[0].lower()]

    def library(self) -> Library:
        return Library(dict(self._pages), dict(self._defaults))


def is_unchanged(if_none_match: str, etag: str) -> bool:
    """Whether a cache that sent this If-None-Match has the page (RFC 9110, section 13.1.2: weak comparison)."""
    if if_none_match.strip() == "*":
        return True
    tags = if_none_match.split(",", ETAGS_MAX)[:ETAGS_MAX]
    return any(tag.strip().removeprefix("W/") == etag for tag in tags)


def preferred_locales(accept_language: str) -> list[str]:
    """The locales of an Accept-Language header, the most wanted first; refused ones (q=0) and nonsense are left out."""
    ranked: list[tuple[float, int, str]] = []
    for place, part in enumerate(accept_language.split(",", LANGUAGES_MAX)[:LANGUAGES_MAX]):
        name, _, parameters = part.strip().partition(";")
        quality = 1.0
        key, _, value = parameters.strip().partition("=")
        if key.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                continue
        locale = name.strip()
        if locale and locale != "*" and 0 < quality <= 1 and locale.replace("-", "").isalnum() and len(locale) <= 35:
            ranked.append((-quality, place, locale))
    return [locale for _, _, locale in sorted(ranked)]
