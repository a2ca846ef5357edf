"""Rows played through a whole mesh, and what the verdict says when one row of its books is changed."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import pytest_asyncio
from psycopg.types.json import Jsonb

from chaos.demo.replay import Replay
from chaos.load.rows import read_rows
from deploy.local.mesh import LocalMesh
from tests.e2e.command import isthmus
from tests.e2e.public import quiet
from tests.ports import free_port_base

pytestmark = pytest.mark.asyncio(loop_scope="session")
ROWS_OF_EACH_FILE = 150


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def played(mesh: LocalMesh) -> AsyncIterator[Replay]:
    """A run without faults whose verdict was good."""
    replay = Replay(mesh, read_rows((), None, mesh.settings.cache, ROWS_OF_EACH_FILE), quiet())
    await replay.play(faults=False)
    verdict = await replay.verify()
    assert verdict.ok, [check for check in verdict.checks if not check.ok] + replay.outcomes.reasons()
    yield replay


async def test_what_was_played_is_what_the_books_hold(played: Replay) -> None:
    verdict = await played.verify()
    assert sum(traffic.impressions for traffic in verdict.books.slots.values()) == 3 * ROWS_OF_EACH_FILE
    assert sum(month.count for month in verdict.books.captures.values()) == ROWS_OF_EACH_FILE
    assert (verdict.loss.lost, verdict.loss.duplicated) == (0, 0)


async def test_a_click_is_queryable_within_seconds(played: Replay) -> None:
    verdict = await played.verify()
    if verdict.freshness.clicks:
        assert verdict.freshness.p99_ms < 10_000


async def test_the_ledger_names_no_place_where_events_went_missing(played: Replay, mesh: LocalMesh) -> None:
    code, output, errors = await isthmus("bridge", "audit", "--json", home=mesh.home.root)
    assert code == 0, output + errors
    found = json.loads(output)
    assert (found["balanced"], found["findings"]) == (True, [])
    assert found["totals"]["landed"] == found["totals"]["rows"] > 0


@dataclass(frozen=True)
class Tampering:
    """`change` is done to one row, named by its `key`, of those that the run has written."""

    name: str
    table: str
    key: str
    change: str
    noticed_by: str
    where: str = "true"


ROW_OF_A_SLOT = "slot LIKE 'position-%%'"
TAMPERINGS = (
    Tampering(
        "an impression lost",
        "warehouse.impression",
        "event_id",
        "DELETE FROM warehouse.impression WHERE event_id = %s",
        "events lost",
        ROW_OF_A_SLOT,
    ),
    Tampering(
        "an impression in another slot",
        "warehouse.impression",
        "event_id",
        "UPDATE warehouse.impression SET slot = 'position-9' WHERE event_id = %s",
        "impressions per slot",
        ROW_OF_A_SLOT,
    ),
    Tampering(
        "a content view lost",
        "warehouse.content_view",
        "event_id",
        "DELETE FROM warehouse.content_view WHERE event_id = %s",
        "content views",
    ),
    Tampering(
        "an order of another amount",
        "orders.placed_order",
        "order_id",
        "UPDATE orders.placed_order SET total_minor = total_minor + 1 WHERE order_id = %s",
        "orders per month",
    ),
    Tampering(
        "an order lost",
        "orders.placed_order",
        "order_id",
        "DELETE FROM orders.placed_order WHERE order_id = %s",
        "orders per month",
    ),
    Tampering(
        "a posting of another amount",
        "payments.posting",
        "posting_id",
        "UPDATE payments.posting SET amount = amount + 1 WHERE posting_id = %s",
        "ledger sum",
    ),
    Tampering(
        "a member lost",
        "members.member",
        "member_id",
        "DELETE FROM members.member WHERE member_id = %s",
        "members",
    ),
)


@pytest.mark.parametrize("tampering", TAMPERINGS, ids=lambda each: each.name)
async def test_one_tampered_row_fails_the_verdict(mesh: LocalMesh, played: Replay, tampering: Tampering) -> None:
    with tampered(mesh, tampering):
        verdict = await played.verify(deadline_s=0)
    assert not verdict.ok
    assert tampering.noticed_by in {check.name for check in verdict.checks if not check.ok}
    assert (await played.verify()).ok


@contextmanager
def tampered(mesh: LocalMesh, tampering: Tampering) -> Iterator[None]:
    """One row changed behind everybody's back, and put right afterwards."""
    url = mesh.database_url.replace("postgresql+psycopg://", "postgresql://")
    table, key = tampering.table, tampering.key
    with psycopg.connect(url, autocommit=True) as connection:
        # Triggers guard the books against mistakes, not against whoever owns the database.
        connection.execute("SET session_replication_role = replica")
        row = connection.execute(f"SELECT {key}, to_jsonb(t) FROM {table} t WHERE {tampering.where} LIMIT 1").fetchone()
        assert row is not None
        connection.execute(tampering.change, row[:1])
        try:
            yield
        finally:
            connection.execute(f"DELETE FROM {table} WHERE {key} = %s", row[:1])
            connection.execute(
                f"INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM jsonb_populate_record(NULL::{table}, %s)",
                (Jsonb(row[1]),),
            )


@pytest.mark.timeout(600)
async def test_the_demonstration_holds_on_a_few_rows_of_any_files(tmp_path: Path) -> None:
    base = free_port_base()
    settings = {"home": tmp_path, "port_base": base, "edge_nodes": 2, "disk_free_mib_min": 0}
    code, output, errors = await isthmus("demo", "--limit", "40", "--json", deadline_s=500, **settings)
    assert code == 0, errors.decode()[-4000:]
    summary = json.loads(output)
    assert summary == json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert summary["ok"]
    assert (summary["impressions_sent"], summary["impressions_landed"]) == (120, 120)
    assert (summary["orders_sent"], summary["orders_landed"]) == (40, 40)
    assert (summary["events_lost"], summary["events_duplicated"], summary["ledger_sum_minor"]) == (0, 0, 0)
    assert (summary["edge_nodes"], summary["edge_nodes_killed"], summary["public_failures"]) == (2, 1, 0)
    assert summary["kafka_outage_seconds"] >= 15


async def test_a_bad_file_stops_the_demonstration_before_anything_starts(tmp_path: Path) -> None:
    file = tmp_path / "sales.txt"
    file.write_text(" 00004 0001 19970118  2   -29.73\n")
    code, _, errors = await isthmus("demo", "--transactions", str(file), home=tmp_path / "home")
    assert code == 2
    assert b"sales.txt:1: dollars" in errors
    assert not (tmp_path / "home").exists()
