"""The rules of publishing that a single field cannot state."""

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from private_core.refusals import Absent, Malformed, WrongState

# A page of campaigns when the caller names no size.
PAGE_SIZE: Final = 100
_SCRIPT_CHARACTERS: Final = 4


def check_schedule(starts_us: int, ends_us: int) -> None:
    """Microseconds since the epoch; 0: no bound."""
    if ends_us and ends_us <= starts_us:
        raise Malformed("SCHEDULE_EMPTY", "the campaign ends before it starts", "set ends_us after starts_us, or to 0")


def check_creatives(creative_ids: Sequence[str]) -> None:
    if len(set(creative_ids)) != len(creative_ids):
        raise Malformed("CREATIVE_TWICE", "two creatives of the campaign have one id", "give each an id of its own")


def check_link(url: str) -> None:
    """HTTPS to a named host, without credentials: what is published must not lead to a place that it does not show."""
    try:
        parts = urlsplit(url)
        # Raises for a port that is no number.
        well_formed = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        well_formed = False
    if not well_formed or parts.scheme != "https" or parts.username is not None or parts.password is not None:
        raise Malformed("LINK_UNSAFE", "a link is not https to a host without credentials", "send https://host/path")
    if not url.isprintable() or "\\" in url or " " in url:
        raise Malformed("LINK_UNSAFE", "a link has spaces, backslashes or unprintable characters", "encode them")


def canonical_locale(locale: str) -> str:
    """One spelling for each language tag: zh-hans-CN becomes zh-Hans-CN (RFC 5646, section 2.1.1)."""
    language, *rest = locale.split("-")
    return "-".join([language.lower(), *(_subtag(part) for part in rest)])


def _subtag(part: str) -> str:
    if len(part) == _SCRIPT_CHARACTERS and part.isalpha():
        return part.title()
    return part.upper() if len(part) == 2 else part.lower()


def check_title(title: str) -> None:
    if not title.isprintable() or not title.strip():
        raise Malformed("TITLE_UNPRINTABLE", "the title is blank or has unprintable characters", "send plain text")


def no_such_campaign() -> Absent:
    return Absent("CAMPAIGN_UNKNOWN", "there never was a campaign of this id")


def default_locale_taken() -> WrongState:
    return WrongState(
        "DEFAULT_LOCALE_TAKEN",
        "another locale of this item is its default",
        "publish that one without default_locale first",
    )
