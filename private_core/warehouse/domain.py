"""What the reports say, and the one rule of arithmetic in them."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Traffic:
    """Counts of one slot, one campaign, or of all."""

    key: str
    impressions: int
    # Every click that landed.
    gross_clicks: int
    # The first click of each impression.
    clicks: int
    # The first click of each impression, crawlers left out.
    net_clicks: int
    crawler_clicks: int

    @property
    def replayed_clicks(self) -> int:
        """Clicks on an impression that had been clicked before. The edge's own flag knows one node, this knows all."""
        return self.gross_clicks - self.clicks

    @property
    def click_through_rate(self) -> float | None:
        """Net clicks over impressions; None where there are no impressions, which is not the same as a rate of zero."""
        return self.net_clicks / self.impressions if self.impressions else None


@dataclass(frozen=True, slots=True)
class TrafficReport:
    total: Traffic
    slots: tuple[Traffic, ...]
    # The key "" stands for impressions where no campaign could be shown.
    campaigns: tuple[Traffic, ...]
    content_views: int


@dataclass(frozen=True, slots=True)
class Funnel:
    """From impression over click to order: of one slot, one campaign, or of all."""

    key: str
    impressions: int
    # Net clicks: the first of each impression, crawlers left out.
    clicks: int
    # Orders that were not cancelled, each by its last click within the window.
    orders: int
    # Sums of these orders, in the smallest unit of each currency.
    revenue_minor: Mapping[str, int]

    @property
    def click_rate(self) -> float | None:
        """Clicks over impressions; None where there are no impressions."""
        return self.clicks / self.impressions if self.impressions else None

    @property
    def order_rate(self) -> float | None:
        """Orders over clicks; None where there are no clicks."""
        return self.orders / self.clicks if self.clicks else None


@dataclass(frozen=True, slots=True)
class FunnelReport:
    total: Funnel
    slots: tuple[Funnel, ...]
    campaigns: tuple[Funnel, ...]
    orders_unattributed: int


@dataclass(frozen=True, slots=True)
class Segment:
    """Customers with the same scores of recency, frequency and monetary value: fifths, 5 the best."""

    recency: int
    frequency: int
    monetary: int
    customers: int
    purchases: int
    currency: str
    spent_minor: int


@dataclass(frozen=True, slots=True)
class Reach:
    """Deliveries of one content item, or of all: each counts once a step, if the step before was told too."""

    slug: str
    delivered: int
    opened: int
    shared: int
    # Opened over delivered; None where nothing was delivered.
    open_rate: float | None
    # Shared over opened; None where nothing was opened.
    share_rate: float | None


@dataclass(frozen=True, slots=True)
class Freshness:
    """From the edge's acceptance of a click to its row, in milliseconds. All zero when there were no clicks."""

    clicks: int
    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class Landing:
    """What became of one partition's records."""

    topic: str
    partition: int
    next_offset: int
    landed: int
    duplicates: int
    dead_letters: int
