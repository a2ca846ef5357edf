"""The funnel, attribution by last click, and RFM on the real purchases of the CDNOW sample."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from isthmus.warehouse.v1 import warehouse_pb2 as pb

from chaos.load.rows import TRANSACTIONS
from chaos.load.transactions import CURRENCY, read_transactions
from deploy.local.settings import LauncherSettings
from mesh.database.migrate import migrate
from mesh.errors import InvalidArgument
from tests.integration.room import plain
from tests.integration.warehouse.test_reports import uuid, warehouse

HOUR_S = 3600


@pytest.fixture(scope="module")
def url(postgres_url: str) -> str:
    migrate(postgres_url)
    return postgres_url


@pytest.fixture
async def database(url: str) -> AsyncIterator[psycopg.Connection]:
    with psycopg.connect(plain(url), autocommit=True) as connection:
        connection.execute("TRUNCATE warehouse.impression, warehouse.click, warehouse.purchase")
        yield connection


def shown(database: psycopg.Connection, number: int, campaign: str = "summer", slot: str = "top") -> None:
    database.execute(
        "INSERT INTO warehouse.impression"
        " (event_id, accepted_time, node, slot, campaign_id, crawler, record_partition, record_offset)"
        " VALUES (%s, to_timestamp(0), 'edge-1', %s, %s, false, 0, 0)",
        (uuid(number), slot, campaign),
    )


def clicked(
    database: psycopg.Connection, number: int, of: int, at_s: int, campaign: str = "summer", *, crawler: bool = False
) -> None:
    database.execute(
        "INSERT INTO warehouse.click (event_id, accepted_time, node, slot, campaign_id, impression_id, crawler,"
        " replayed, record_partition, record_offset) VALUES (%s, to_timestamp(%s), 'edge-1', 'top', %s, %s, %s,"
        " false, 0, 0)",
        (uuid(number), at_s, campaign, uuid(of), crawler),
    )


def bought(
    database: psycopg.Connection,
    order: str,
    at_s: int,
    of: int | None = None,
    minor: int = 1000,
    currency: str = "USD",
    state: str = "placed",
) -> None:
    database.execute(
        "INSERT INTO warehouse.purchase (order_id, member_id, state, total_minor, currency, click_id, placed_time)"
        " VALUES (%s, 'member-1', %s, %s, %s, %s, to_timestamp(%s))",
        (order, state, minor, currency, None if of is None else uuid(of), at_s),
    )


async def funnel(url: str, home: Path, window_s: int = HOUR_S) -> pb.ReportFunnelResponse:
    async with warehouse(url, home) as stub:
        return await stub.ReportFunnel(pb.ReportFunnelRequest(window_s=window_s))


async def test_the_funnel_leads_from_impression_over_click_to_order(
    url: str, database: psycopg.Connection, tmp_path: Path
) -> None:
    for number in range(4):
        shown(database, number)
    shown(database, 4, "winter", "side")
    clicked(database, 10, of=0, at_s=100)
    clicked(database, 11, of=1, at_s=100)
    bought(database, "one", 200, of=0)
    bought(database, "two", 300, of=0, minor=50, currency="EUR")
    bought(database, "gone", 300, of=1, state="cancelled")
    bought(database, "of nobody", 300)
    report = await funnel(url, tmp_path)
    total = report.total
    assert (total.impressions, total.clicks, total.orders, report.orders_unattributed) == (5, 2, 2, 1)
    assert (total.click_rate, total.order_rate) == (0.4, 1.0)
    assert {money.currency: money.minor for money in total.revenue} == {"USD": 1000, "EUR": 50}
    assert [(one.key, one.impressions, one.orders) for one in report.campaigns] == [("summer", 4, 2), ("winter", 1, 0)]
    assert [(one.key, one.clicks, len(one.revenue)) for one in report.slots] == [("side", 0, 0), ("top", 2, 2)]


async def test_rates_with_nothing_below_the_line_are_absent(
    url: str, database: psycopg.Connection, tmp_path: Path
) -> None:
    nothing = await funnel(url, tmp_path)
    assert not nothing.total.HasField("click_rate")
    shown(database, 0)
    seen = await funnel(url, tmp_path)
    assert seen.total.click_rate == 0.0
    assert not seen.total.HasField("order_rate")


async def test_the_last_click_before_the_order_counts_and_only_within_the_window(
    url: str, database: psycopg.Connection, tmp_path: Path
) -> None:
    shown(database, 0)
    clicked(database, 10, of=0, at_s=0)
    clicked(database, 11, of=0, at_s=HOUR_S)
    clicked(database, 12, of=0, at_s=HOUR_S + 10, crawler=True)
    bought(database, "late", 2 * HOUR_S, of=0)
    clicked(database, 13, of=0, at_s=2 * HOUR_S + 1)
    (found,) = database.execute("SELECT click_event_id FROM warehouse.attributed_purchase").fetchall()
    assert found[0].hex == uuid(11)
    at_the_bound, too_late = await funnel(url, tmp_path), await funnel(url, tmp_path, HOUR_S - 1)
    assert (at_the_bound.total.orders, at_the_bound.orders_unattributed) == (1, 0)
    assert (too_late.total.orders, too_late.orders_unattributed) == (0, 1)


@pytest.mark.parametrize("window_s", [0, 30 * 24 * HOUR_S + 1])
async def test_a_window_beyond_what_is_kept_is_refused(
    url: str, database: psycopg.Connection, tmp_path: Path, window_s: int
) -> None:
    with pytest.raises(InvalidArgument):
        await funnel(url, tmp_path, window_s)


async def test_the_real_purchases_of_cdnow_add_up(url: str, database: psycopg.Connection, tmp_path: Path) -> None:
    rows = read_transactions(LauncherSettings().cache / "datasets" / TRANSACTIONS)
    with database.cursor().copy(
        "COPY warehouse.purchase (order_id, member_id, state, total_minor, currency, source_time, placed_time)"
        " FROM STDIN"
    ) as copy:
        for row in rows:
            time = datetime.fromtimestamp(row.source_time_us / 1e6, UTC)
            copy.write_row((str(row.line), row.customer, "placed", row.amount_minor, CURRENCY, time, time))
    async with warehouse(url, tmp_path) as stub:
        segments = (await stub.ReportCustomers(pb.ReportCustomersRequest())).segments
    assert sum(each.customers for each in segments) == 2_357
    assert sum(each.purchases for each in segments) == 6_919
    assert sum(each.spent.minor for each in segments) == 24_409_194
    scores = {(each.recency_score, each.frequency_score, each.monetary_score): each for each in segments}
    assert {score for key in scores for score in key} == {1, 2, 3, 4, 5}
    # More than half bought once: they are equal in that, and none of them scores better than another.
    once = sum(each.customers for each in segments if each.frequency_score == 1)
    (alone,) = database.execute("SELECT count(*) FROM warehouse.rfm WHERE purchases = 1").fetchall()
    assert once == alone[0] > 2_357 // 2
    best, worst = scores[5, 5, 5], scores[1, 1, 1]
    assert best.purchases / best.customers > worst.purchases / worst.customers
