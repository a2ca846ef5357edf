"""How far the streams of a run are, and who has to wait for whom."""

import asyncio
from dataclasses import dataclass

# Impressions may be this share of the run ahead of purchases, so that both last as long as the run does.
LEAD = 0.02
POLL_S = 0.02


@dataclass
class Stream:
    """A bounded number of rows, done one by one, whatever becomes of each."""

    rows: int
    done: int = 0

    @property
    def share(self) -> float:
        return self.done / self.rows if self.rows else 1.0


class Pace:
    """Two streams that are to end together. Waiting looks at counters, which is cheaper than an event for each row."""

    def __init__(self, impressions: int, purchases: int) -> None:
        self.impressions = Stream(impressions)
        self.purchases = Stream(purchases)

    async def hold_impressions(self) -> None:
        """Wait while impressions are too far ahead. Ends at the latest with the last purchase."""
        while self.impressions.share > self.purchases.share + LEAD:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)

    async def reached(self, share: float) -> None:
        """Wait until this share of the impressions is done."""
        while self.impressions.share < share:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
