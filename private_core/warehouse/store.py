"""The reports, one statement each: what they show is of one moment."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.database.engine import execute
from private_core.times import to_datetime
from private_core.warehouse.domain import (
    Freshness,
    Funnel,
    FunnelReport,
    Landing,
    Reach,
    Segment,
    Traffic,
    TrafficReport,
)

# One row for all, one for each slot, one for each campaign; `grouped` says which (bit 1: not by slot, bit 0: not by
# campaign).
_TRAFFIC: Final = text(
    """
    SELECT grouping(slot, campaign_id) AS grouped, slot, campaign_id,
        coalesce(sum(impressions), 0)::bigint AS impressions, coalesce(sum(gross_clicks), 0)::bigint AS gross_clicks,
        coalesce(sum(clicks), 0)::bigint AS clicks, coalesce(sum(net_clicks), 0)::bigint AS net_clicks,
        coalesce(sum(crawler_clicks), 0)::bigint AS crawler_clicks,
        (SELECT count(*) FROM warehouse.content_view) AS content_views
    FROM warehouse.traffic GROUP BY GROUPING SETS ((), (slot), (campaign_id)) ORDER BY slot, campaign_id
    """
)
_BY_SLOT: Final = 0b01
_BY_CAMPAIGN: Final = 0b10
# As above, and of each group also one row for every currency of its orders (bit 0: not by currency).
_FUNNEL: Final = text(
    """
    WITH sold AS (
        SELECT slot, campaign_id, currency, click_event_id IS NOT NULL AND click_age <= :age AS attributed,
            count(*) AS orders, sum(total_minor) AS revenue
        FROM warehouse.attributed_purchase WHERE state <> 'cancelled' GROUP BY 1, 2, 3, 4
    ), step AS (
        SELECT slot, campaign_id, NULL AS currency, impressions, net_clicks AS clicks, 0 AS orders, 0 AS revenue
        FROM warehouse.traffic
        UNION ALL SELECT slot, campaign_id, currency, 0, 0, orders, revenue FROM sold WHERE attributed
    )
    SELECT grouping(slot, campaign_id, currency) AS grouped, slot, campaign_id, currency,
        coalesce(sum(impressions), 0)::bigint AS impressions, coalesce(sum(clicks), 0)::bigint AS clicks,
        coalesce(sum(orders), 0)::bigint AS orders, coalesce(sum(revenue), 0)::bigint AS revenue,
        (SELECT coalesce(sum(orders), 0)::bigint FROM sold WHERE NOT attributed) AS unattributed
    FROM step
    GROUP BY GROUPING SETS ((), (slot), (campaign_id), (currency), (slot, currency), (campaign_id, currency))
    HAVING grouping(currency) = 1 OR currency IS NOT NULL
    ORDER BY slot, campaign_id, currency
    """
)
_CUSTOMERS: Final = text(
    """
    SELECT recency_score, frequency_score, monetary_score, count(*) AS customers, sum(purchases)::bigint AS purchases,
        currency, sum(spent_minor)::bigint AS spent_minor
    FROM warehouse.rfm GROUP BY currency, recency_score, frequency_score, monetary_score
    ORDER BY currency, recency_score DESC, frequency_score DESC, monetary_score DESC
    """
)
# The row of no slug is of all items; the view has it always.
_CONTENT: Final = text(
    """
    SELECT coalesce(slug, '') AS slug, delivered, opened, shared, open_rate, share_rate
    FROM warehouse.content_reach ORDER BY content_reach.slug NULLS FIRST
    """
)
_FRESHNESS: Final = text(
    """
    SELECT count(*) AS clicks, coalesce(percentile_cont(0.5) WITHIN GROUP (ORDER BY ms), 0) AS p50_ms,
        coalesce(percentile_cont(0.99) WITHIN GROUP (ORDER BY ms), 0) AS p99_ms, coalesce(max(ms), 0) AS max_ms
    FROM (
        SELECT (extract(epoch FROM landed_time - accepted_time) * 1000)::float8 AS ms FROM warehouse.click
        WHERE (CAST(:accepted_from AS timestamptz) IS NULL OR accepted_time >= :accepted_from)
            AND (CAST(:accepted_to AS timestamptz) IS NULL OR accepted_time < :accepted_to)
    ) AS delay
    """
)
# The bridge's own view: the one thing of another schema that this room reads.
_LANDING: Final = text(
    """
    SELECT doubled.rows AS doubled_rows, topic, partition, next_offset, landed, duplicates, dead_letters
    FROM (SELECT coalesce(sum(copies - 1), 0)::bigint AS rows FROM warehouse.doubled_row) AS doubled
        LEFT JOIN bridge.landing ON true
    ORDER BY topic, partition
    """
)


class WarehouseStore:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def traffic(self) -> TrafficReport:
        rows = await execute(self._engine, _TRAFFIC)
        (total,) = [row for row in rows if row.grouped == _BY_SLOT | _BY_CAMPAIGN]
        return TrafficReport(
            total=_traffic("", total),
            slots=tuple(_traffic(row.slot, row) for row in rows if row.grouped == _BY_SLOT),
            campaigns=tuple(_traffic(row.campaign_id or "", row) for row in rows if row.grouped == _BY_CAMPAIGN),
            content_views=total.content_views,
        )

    async def funnel(self, window: timedelta) -> FunnelReport:
        """Orders count for the last click before them, when it was no longer ago than `window`."""
        rows = await execute(self._engine, _FUNNEL, {"age": window})
        revenue: dict[tuple[int, str | None, str | None], dict[str, int]] = {}
        for row in rows:
            if not row.grouped & 1:
                revenue.setdefault((row.grouped >> 1, row.slot, row.campaign_id), {})[row.currency] = row.revenue

        def found(grouped: int, key: str | None) -> tuple[Funnel, ...]:
            return tuple(
                Funnel(
                    (getattr(row, key) or "") if key else "",
                    row.impressions,
                    row.clicks,
                    row.orders,
                    revenue.get((grouped, row.slot, row.campaign_id), {}),
                )
                for row in rows
                if row.grouped == grouped << 1 | 1
            )

        (total,) = found(_BY_SLOT | _BY_CAMPAIGN, None)
        return FunnelReport(total, found(_BY_SLOT, "slot"), found(_BY_CAMPAIGN, "campaign_id"), rows[0].unattributed)

    async def customers(self) -> tuple[Segment, ...]:
        return tuple(Segment(*row) for row in await execute(self._engine, _CUSTOMERS))

    async def content(self) -> tuple[Reach, tuple[Reach, ...]]:
        """Of all items together, and of each."""
        total, *items = (Reach(*row) for row in await execute(self._engine, _CONTENT))
        return total, tuple(items)

    async def freshness(self, accepted_from_us: int, accepted_to_us: int) -> Freshness:
        """Of clicks accepted in [from, to); 0: no bound."""
        window = {
            "accepted_from": to_datetime(accepted_from_us) if accepted_from_us else None,
            "accepted_to": to_datetime(accepted_to_us) if accepted_to_us else None,
        }
        (row,) = await execute(self._engine, _FRESHNESS, window)
        return Freshness(row.clicks, row.p50_ms, row.p99_ms, row.max_ms)

    async def landing(self) -> tuple[Sequence[Landing], int]:
        """Each partition that was ever read, and how many rows are there beside the first of their event id."""
        rows = await execute(self._engine, _LANDING)
        landings = [
            Landing(row.topic, row.partition, row.next_offset, row.landed, row.duplicates, row.dead_letters)
            for row in rows
            if row.topic is not None
        ]
        return landings, rows[0].doubled_rows


def _traffic(key: str, row: Any) -> Traffic:
    return Traffic(key, row.impressions, row.gross_clicks, row.clicks, row.net_clicks, row.crawler_clicks)
