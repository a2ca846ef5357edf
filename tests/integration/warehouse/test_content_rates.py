"""Open and share rates by their formulas; without a denominator there is no rate, which is not a rate of zero."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from isthmus.warehouse.v1 import warehouse_pb2 as pb

from chaos.load.impressions import read_impressions
from chaos.load.rows import IMPRESSIONS
from deploy.local.settings import LauncherSettings
from mesh.database.migrate import migrate
from tests.integration.room import plain
from tests.integration.warehouse.test_reports import uuid, warehouse

COLUMNS = "event_id, accepted_time, node, slug, delivery_id, step, crawler, record_partition, record_offset"


@pytest.fixture(scope="module")
def url(postgres_url: str) -> str:
    migrate(postgres_url)
    return postgres_url


@pytest.fixture
def database(url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(plain(url), autocommit=True) as connection:
        connection.execute("TRUNCATE warehouse.content_receipt")
        yield connection


def tell(database: psycopg.Connection, receipts: list[tuple[str, int, str, bool]]) -> None:
    """(slug, delivery, step, crawler), each an event of its own."""
    with database.cursor().copy(f"COPY warehouse.content_receipt ({COLUMNS}) FROM STDIN") as copy:
        for number, (slug, delivery, step, crawler) in enumerate(receipts):
            copy.write_row((uuid(number), "2026-01-01", "edge-1", slug, uuid(delivery), step, crawler, 0, number))


async def report(url: str, home: Path) -> tuple[pb.ContentReach, dict[str, pb.ContentReach]]:
    async with warehouse(url, home) as stub:
        answer = await stub.ReportContent(pb.ReportContentRequest())
    return answer.total, {each.slug: each for each in answer.items}


async def test_each_delivery_counts_once_a_step_and_only_behind_the_step_before(
    url: str, database: psycopg.Connection, tmp_path: Path
) -> None:
    sent = [("letter", number, "delivered", False) for number in range(8)]
    opened = [("letter", number, "opened", False) for number in (0, 1, 1, 2, 3, 99)]
    shared = [("letter", number, "shared", False) for number in (0, 0, 7)]
    crawled = [("letter", 5, "opened", True), ("other", 50, "delivered", True)]
    tell(database, [*sent, *opened, *shared, *crawled, ("unread", 60, "delivered", False)])
    total, items = await report(url, tmp_path)
    letter, unread = items["letter"], items["unread"]
    assert (letter.delivered, letter.opened, letter.shared) == (8, 4, 1)
    assert (letter.open_rate, letter.share_rate) == (4 / 8, 1 / 4)
    assert (unread.delivered, unread.open_rate, unread.HasField("share_rate")) == (1, 0.0, False)
    assert (total.delivered, total.opened, total.shared, total.open_rate) == (9, 4, 1, 4 / 9)
    assert items.keys() == {"letter", "unread"}


async def test_where_nothing_was_delivered_there_is_no_rate(
    url: str, database: psycopg.Connection, tmp_path: Path
) -> None:
    nothing, none = await report(url, tmp_path)
    assert none == {}
    tell(database, [("made-up", 1, "opened", False)])
    total, items = await report(url, tmp_path)
    for reach in (nothing, total, items["made-up"]):
        assert (reach.delivered, reach.opened) == (0, 0)
        assert not reach.HasField("open_rate")
        assert not reach.HasField("share_rate")


async def test_the_real_impressions_and_clicks_read_as_letters_have_their_known_rates(
    url: str, database: psycopg.Connection, tmp_path: Path
) -> None:
    rows = read_impressions([LauncherSettings().cache / "datasets" / path for path in IMPRESSIONS])
    told = [(row.collection, number, "delivered", False) for number, row in enumerate(rows)]
    told += [(row.collection, number, "opened", False) for number, row in enumerate(rows) if row.clicked]
    tell(database, told)
    total, items = await report(url, tmp_path)
    assert (total.delivered, total.opened, total.open_rate) == (30_000, 130, 130 / 30_000)
    assert {slug: (each.delivered, each.opened) for slug, each in items.items()} == {
        "all": (10_000, 38),
        "men": (10_000, 46),
        "women": (10_000, 46),
    }
    assert {each.share_rate for each in items.values()} == {0.0}
