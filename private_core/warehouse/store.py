"""The reports, one statement each: what they show is of one moment."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.database.engine import execute
from private_core.times import to_datetime
from private_core.warehouse.domain import Freshness, Landing, Traffic, TrafficReport

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
