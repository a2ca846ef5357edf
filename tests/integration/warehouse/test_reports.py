"""The reports count what landed by the contract's own words, and only the operator may ask."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from isthmus.warehouse.v1 import warehouse_pb2 as pb
from isthmus.warehouse.v1 import warehouse_pb2_grpc
from isthmus.warehouse.v1.warehouse_pb2_grpc import WarehouseStub

from mesh.database.engine import async_engine
from mesh.database.migrate import migrate
from mesh.errors import InvalidArgument, PermissionDenied
from private_core.warehouse.service import WarehouseService
from private_core.warehouse.store import WarehouseStore
from security.audit.postgres import PostgresAuditSink
from tests.integration.room import PrivateRoom, own, plain

if TYPE_CHECKING:
    from isthmus.warehouse.v1.warehouse_pb2_grpc import WarehouseAsyncStub


@pytest.fixture(scope="module")
def url(postgres_url: str) -> str:
    migrate(postgres_url)
    return postgres_url


@pytest.fixture
def database(url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(plain(url), autocommit=True) as connection:
        for table in ("warehouse.impression", "warehouse.click", "warehouse.content_view", "bridge.checkpoint"):
            connection.execute(f"TRUNCATE {table}")
        yield connection


@asynccontextmanager
async def warehouse(url: str, home: Path, caller: str = "operator") -> AsyncIterator["WarehouseAsyncStub"]:
    engine = async_engine(own(url, "warehouse"))
    room = PrivateRoom(home, "warehouse")
    sink = PostgresAuditSink(async_engine(own(url, "warehouse"), pool_size=1))
    await sink.start()
    service = WarehouseService(WarehouseStore(engine))
    try:
        async with (
            room.serving(warehouse_pb2_grpc.add_WarehouseServicer_to_server, service, sink),
            room.caller(caller) as channel,
        ):
            yield WarehouseStub(channel)
    finally:
        await sink.stop(1)
        await engine.dispose()


def uuid(number: int) -> str:
    return f"{number:032x}"


def impression(database: psycopg.Connection, number: int, slot: str, campaign: str | None = "summer") -> None:
    database.execute(
        "INSERT INTO warehouse.impression"
        " (event_id, accepted_time, node, slot, campaign_id, crawler, record_partition, record_offset)"
        " VALUES (%s, now(), 'edge-1', %s, %s, false, 0, %s)",
        (uuid(number), slot, campaign, number),
    )


def click(
    database: psycopg.Connection, number: int, of: int, second: int, *, crawler: bool = False, delay_ms: int = 50
) -> None:
    database.execute(
        "INSERT INTO warehouse.click (event_id, accepted_time, node, slot, campaign_id, impression_id, crawler,"
        " replayed, record_partition, record_offset, landed_time)"
        " SELECT %(id)s, at, 'edge-1', 'position-1', 'summer', %(of)s, %(crawler)s, false, 0, %(number)s,"
        " at + %(delay)s * interval '1 ms'"
        " FROM (SELECT timestamptz '2025-01-01 00:00:00Z' + %(second)s * interval '1 second' AS at) AS moment",
        {"id": uuid(number), "of": uuid(of), "crawler": crawler, "number": number, "second": second, "delay": delay_ms},
    )


async def test_clicks_are_counted_gross_first_and_net(url: str, database: psycopg.Connection, tmp_path: Path) -> None:
    for number in range(4):
        impression(database, number, "position-1")
    impression(database, 4, "position-2", campaign=None)
    click(database, 10, of=0, second=1)
    click(database, 11, of=0, second=2)
    click(database, 12, of=1, second=3, crawler=True)
    # A crawler was first, a person second: one click counts, and it is not the crawler's.
    click(database, 13, of=2, second=4, crawler=True)
    click(database, 14, of=2, second=5)
    async with warehouse(url, tmp_path) as stub:
        report = await stub.ReportTraffic(pb.ReportTrafficRequest())
    total = report.total
    assert (total.impressions, total.gross_clicks, total.clicks, total.net_clicks) == (5, 5, 3, 2)
    assert (total.replayed_clicks, total.crawler_clicks, total.click_through_rate) == (2, 2, 0.4)
    assert [(slot.key, slot.impressions, slot.net_clicks) for slot in report.slots] == [
        ("position-1", 4, 2),
        ("position-2", 1, 0),
    ]
    assert {campaign.key: campaign.impressions for campaign in report.campaigns} == {"summer": 4, "": 1}


async def test_a_rate_without_impressions_is_absent(url: str, database: psycopg.Connection, tmp_path: Path) -> None:
    async with warehouse(url, tmp_path) as stub:
        report = await stub.ReportTraffic(pb.ReportTrafficRequest())
    assert report.total.impressions == 0
    assert not report.total.HasField("click_through_rate")


async def test_freshness_is_from_the_edge_to_the_row_and_of_the_window_alone(
    url: str, database: psycopg.Connection, tmp_path: Path
) -> None:
    for number in range(101):
        click(database, number, of=number, second=number, delay_ms=number)
    begin = 1_735_689_600_000_000
    async with warehouse(url, tmp_path) as stub:
        whole = await stub.ReportFreshness(pb.ReportFreshnessRequest())
        window = pb.ReportFreshnessRequest(accepted_from_us=begin, accepted_to_us=begin + 11_000_000)
        part = await stub.ReportFreshness(window)
        nothing = await stub.ReportFreshness(pb.ReportFreshnessRequest(accepted_from_us=begin + 3_600_000_000))
    assert (whole.clicks, whole.p50_ms, whole.p99_ms, whole.max_ms) == (101, 50, 99, 100)
    assert (part.clicks, part.p50_ms, part.max_ms) == (11, 5, 10)
    assert (nothing.clicks, nothing.p50_ms, nothing.p99_ms, nothing.max_ms) == (0, 0, 0, 0)


@pytest.mark.parametrize("time_us", [-1, 2**63 - 1])
async def test_a_window_outside_of_time_is_refused(
    url: str, database: psycopg.Connection, tmp_path: Path, time_us: int
) -> None:
    async with warehouse(url, tmp_path) as stub:
        with pytest.raises(InvalidArgument, match="WINDOW_INVALID"):
            await stub.ReportFreshness(pb.ReportFreshnessRequest(accepted_from_us=time_us))


async def test_landing_shows_the_bridges_counters_and_doubled_rows(
    url: str, database: psycopg.Connection, tmp_path: Path
) -> None:
    database.execute(
        "INSERT INTO bridge.checkpoint VALUES ('isthmus.click.v1', 0, 'id', 3, 'w', 12, 9, 2, 1, now()),"
        " ('isthmus.click.v1', 1, 'id', 3, 'w', 4, 4, 0, 0, now())"
    )
    click(database, 1, of=1, second=1)
    click(database, 1, of=1, second=1)
    async with warehouse(url, tmp_path) as stub:
        report = await stub.ReportLanding(pb.ReportLandingRequest())
    assert [(p.partition, p.next_offset, p.landed, p.duplicates, p.dead_letters) for p in report.partitions] == [
        (0, 12, 9, 2, 1),
        (1, 4, 4, 0, 0),
    ]
    assert report.doubled_rows == 1


async def test_nobody_but_the_operator_may_ask(url: str, database: psycopg.Connection, tmp_path: Path) -> None:
    async with warehouse(url, tmp_path, caller="core-gateway") as stub:
        with pytest.raises(PermissionDenied, match="CALLER_NOT_ALLOWED"):
            await stub.ReportTraffic(pb.ReportTrafficRequest())
