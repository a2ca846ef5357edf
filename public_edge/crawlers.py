"""Which user agents are known bots, and of which class, by the list of the crawler-user-agents project."""

import re
from enum import Enum
from functools import lru_cache
from typing import Final

from crawleruseragents import CRAWLER_USER_AGENTS_DATA

USER_AGENT_CHARS_MAX = 512
CACHE_MAX = 16_384


class Bot(Enum):
    """What a bot is there for, with the list's tags for it. One that has tags of several is of the first."""

    # A program in somebody's hands.
    TOOL = frozenset({"scanner", "http-library", "browser-automation"})
    # Takes away what is there.
    HARVEST = frozenset({"ai-crawler", "seo"})
    # Shows it to others, or watches over it.
    INDEX = frozenset(
        {"academic", "advertising", "archiver", "feed-reader", "monitoring", "search-engine", "social-preview"}
    )


def _expressions() -> list[tuple[Bot, re.Pattern[str]]]:
    """All patterns of a class as one."""
    patterns: dict[Bot, list[str]] = {bot: [] for bot in Bot}
    for entry in CRAWLER_USER_AGENTS_DATA:
        tags = entry["tags"]
        patterns[next((bot for bot in Bot if not bot.value.isdisjoint(tags)), Bot.INDEX)].append(entry["pattern"])
    return [(bot, re.compile("|".join(known))) for bot, known in patterns.items()]


_EXPRESSIONS: Final = _expressions()


def bot_of(user_agent: str | None) -> Bot | None:
    """The class of a known bot. Only the first 512 characters are looked at; no user agent is no bot."""
    return None if user_agent is None else _bot_of(user_agent[:USER_AGENT_CHARS_MAX])


@lru_cache(CACHE_MAX)
def _bot_of(user_agent: str) -> Bot | None:
    """Half a millisecond for whom is not known yet."""
    return next((bot for bot, expression in _EXPRESSIONS if expression.search(user_agent)), None)
