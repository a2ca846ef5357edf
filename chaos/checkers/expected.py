"""What the books must say when all rows of the files have arrived, derived from the files alone."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from chaos.load.audience import READS_EVERY
from chaos.load.impressions import ImpressionRow
from chaos.load.transactions import Purchase


@dataclass(frozen=True)
class Month:
    """Orders or captures of one month and their amount in minor units."""

    count: int = 0
    minor: int = 0

    def __add__(self, other: "Month") -> "Month":
        return Month(self.count + other.count, self.minor + other.minor)

    def __sub__(self, other: "Month") -> "Month":
        return Month(self.count - other.count, self.minor - other.minor)


@dataclass(frozen=True)
class Expected:
    """Per slot, per month (1997-01) and in all."""

    impressions: dict[str, int]
    clicks: dict[str, int]
    pages: int
    members: int
    months: dict[str, Month]

    @property
    def orders(self) -> Month:
        return sum(self.months.values(), Month())


def expected(impressions: Sequence[ImpressionRow], purchases: Sequence[Purchase]) -> Expected:
    months: dict[str, Month] = {}
    for purchase in purchases:
        months[purchase.month] = months.get(purchase.month, Month()) + Month(1, purchase.amount_minor)
    shown = Counter(row.slot for row in impressions)
    clicked = Counter(row.slot for row in impressions if row.clicked)
    return Expected(
        dict(sorted(shown.items())),
        {slot: clicked[slot] for slot in sorted(shown)},
        len(impressions) // READS_EVERY,
        len({purchase.customer for purchase in purchases}),
        dict(sorted(months.items())),
    )
