"""How often bots are answered at a node: those of one class share a bucket, and people are not counted."""

import threading
import time
from collections import Counter
from collections.abc import Callable

from mesh.contract.model import Contract, RateClass, RateLimit
from mesh.contract.reader import ContractError
from mesh.errors import ResourceExhausted
from mesh.rates import Buckets
from public_edge.crawlers import Bot


def limit_of_bots(contract: Contract) -> RateLimit:
    """Of one class of them, at each node. ContractError where the crowd's rates do not state it."""
    limit = contract.rates[RateClass.CROWD].bots
    if limit is None:
        raise ContractError("rate class CROWD: state bots")
    return limit


class BotRates:
    """For all threads that answer requests."""

    def __init__(self, limit: RateLimit, now: Callable[[], float] = time.monotonic) -> None:
        self._buckets = Buckets(limit, now)
        self._taking = threading.Lock()
        # By class, and whether they were answered.
        self.seen: Counter[tuple[Bot, bool]] = Counter()

    def take(self, bot: Bot) -> None:
        """One request. ResourceExhausted where bots of the class have asked too often."""
        with self._taking:
            admitted = self._buckets.take(bot.name)
            self.seen[bot, admitted] += 1
        if not admitted:
            raise ResourceExhausted(
                "RATE_EXCEEDED",
                f"bots of the class {bot.name} ask too often",
                remedy="wait a second, then ask again, slower",
                metadata={"bot_class": bot.name},
            )
