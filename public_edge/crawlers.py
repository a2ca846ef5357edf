"""Which user agents are known crawlers, by the list of the crawler-user-agents project."""

import re
from functools import lru_cache

from crawleruseragents import CRAWLER_USER_AGENTS_DATA

USER_AGENT_CHARS_MAX = 512
CACHE_MAX = 16_384


class Crawlers:
    """All patterns as one expression (half a millisecond a search) behind a bounded cache of user agents."""

    def __init__(self) -> None:
        pattern = re.compile("|".join(entry["pattern"] for entry in CRAWLER_USER_AGENTS_DATA))

        @lru_cache(CACHE_MAX)
        def known(user_agent: str) -> bool:
            return pattern.search(user_agent) is not None

        self._known = known

    def match(self, user_agent: str | None) -> bool:
        """True for a known crawler. Only the first 512 characters are looked at; no user agent is no crawler."""
        return user_agent is not None and self._known(user_agent[:USER_AGENT_CHARS_MAX])
