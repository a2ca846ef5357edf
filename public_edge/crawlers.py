"""Which user agents are known bots, and of which class, by the list of the crawler-user-agents project."""

import re
from enum import Enum
from functools import lru_cache

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


class Crawlers:
    """All patterns as an expression for each class (half a millisecond a search) behind a bounded cache."""

    def __init__(self) -> None:
        patterns: dict[Bot, list[str]] = {bot: [] for bot in Bot}
        for entry in CRAWLER_USER_AGENTS_DATA:
            tags = entry["tags"]
            patterns[next((bot for bot in Bot if not bot.value.isdisjoint(tags)), Bot.INDEX)].append(entry["pattern"])
        expressions = [(bot, re.compile("|".join(known))) for bot, known in patterns.items()]

        @lru_cache(CACHE_MAX)
        def known(user_agent: str) -> Bot | None:
            return next((bot for bot, expression in expressions if expression.search(user_agent)), None)

        self._known = known

    def bot(self, user_agent: str | None) -> Bot | None:
        """The class of a known bot. Only the first 512 characters are looked at; no user agent is no bot."""
        return None if user_agent is None else self._known(user_agent[:USER_AGENT_CHARS_MAX])

    def match(self, user_agent: str | None) -> bool:
        """True for a known bot, of whichever class."""
        return self.bot(user_agent) is not None
