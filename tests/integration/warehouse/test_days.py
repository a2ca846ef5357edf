"""Rows that were there before the tables had days are in their days afterwards."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg

from mesh.database.migrate import Owner, migrate, owners
from tests.integration.room import plain

BEFORE = "0008_partitions_by_day.py"
ROWS_OF_A_DAY = 5


def test_a_migration_puts_every_row_into_its_day_and_knows_its_event(postgres_url: str, tmp_path: Path) -> None:
    (now,) = (owner for owner in owners() if owner.schema == "warehouse")
    kept = tmp_path / "migrations" / "versions"
    shutil.copytree(now.versions, kept, ignore=lambda _, names: [name for name in names if name >= BEFORE])
    migrate(postgres_url, [Owner("warehouse", kept)])
    days = [datetime.now(UTC) - timedelta(days=ago) for ago in (3, 1, 0)]
    with psycopg.connect(plain(postgres_url), autocommit=True) as connection:
        for day in days:
            connection.execute(
                "INSERT INTO warehouse.click (event_id, accepted_time, node, slot, impression_id, crawler, replayed,"
                " record_partition, record_offset, landed_time) SELECT gen_random_uuid(), %s, 'edge-1', 'top',"
                " gen_random_uuid(), false, false, 0, number, %s FROM generate_series(1, %s) AS number",
                (day, day, ROWS_OF_A_DAY),
            )
        read = "SELECT event_id, accepted_time, record_offset, landed_time FROM warehouse.click ORDER BY 1"
        there = connection.execute(read).fetchall()
        views = "SELECT table_name FROM information_schema.views WHERE table_schema = 'warehouse' ORDER BY 1"
        seen = connection.execute(views).fetchall()
        migrate(postgres_url)
        assert connection.execute(read).fetchall() == there
        assert connection.execute(views).fetchall() == seen
        for day in days:
            of_day = connection.execute(f"SELECT count(*) FROM warehouse.click_{day:%Y%m%d}").fetchall()
            assert of_day == [(ROWS_OF_A_DAY,)]
        assert connection.execute("SELECT event_id FROM warehouse.click_id ORDER BY 1").fetchall() == [
            (event_id,) for event_id, *_ in there
        ]
        assert connection.execute("SELECT sum(gross_clicks) FROM warehouse.traffic").fetchall() == [(len(there),)]
