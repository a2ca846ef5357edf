"""Migrations: found by convention, applied by one at a time, and required by whoever starts."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.database.engine import async_engine, execute
from mesh.database.migrate import Owner, migrate, owners, require_current
from mesh.errors import FailedPrecondition

FIRST = """
from alembic import op

revision = "{revision}"
down_revision = {before}


def upgrade():
    op.execute("{sql}")
"""


@pytest.fixture
def owner(tmp_path: Path) -> Owner:
    versions = tmp_path / "room" / "migrations" / "versions"
    versions.mkdir(parents=True)
    (versions / "0001_first.py").write_text(
        FIRST.format(revision="0001", before=None, sql="CREATE TABLE thing (id int)")
    )
    (tmp_path / "room" / "migrations" / "schema.txt").write_text(f"room_{tmp_path.name.replace('-', '_').lower()}\n")
    return Owner.beside(str(tmp_path / "room" / "store.py"))


@pytest.fixture
async def engine(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    engine = async_engine(postgres_url, "test")
    yield engine
    await engine.dispose()


def test_every_room_with_tables_is_found() -> None:
    assert {"orders", "payments", "outbox"} <= {owner.schema for owner in owners()}


async def test_a_schema_that_is_behind_stops_the_start_and_says_what_to_do(
    postgres_url: str, engine: AsyncEngine, owner: Owner
) -> None:
    with pytest.raises(FailedPrecondition) as refused:
        await require_current(engine, owner)
    assert refused.value.reason == "SCHEMA_NOT_CURRENT"
    assert "deploy.local.migrate" in refused.value.remedy
    migrate(postgres_url, [owner])
    await require_current(engine, owner)
    (owner.versions / "0002_second.py").write_text(
        FIRST.format(revision="0002", before='"0001"', sql="ALTER TABLE thing ADD name text")
    )
    with pytest.raises(FailedPrecondition):
        await require_current(engine, owner)
    assert migrate(postgres_url, [owner]) == {owner.schema: "0002"}
    await require_current(engine, owner)


async def test_a_failing_migration_leaves_nothing_behind(postgres_url: str, engine: AsyncEngine, owner: Owner) -> None:
    (owner.versions / "0002_second.py").write_text(
        FIRST.format(revision="0002", before='"0001"', sql="ALTER TABLE missing ADD name text")
    )
    with pytest.raises(Exception, match="missing"):
        migrate(postgres_url, [owner])
    there = text("SELECT count(*) FROM pg_namespace WHERE nspname = :schema")
    assert (await execute(engine, there, {"schema": owner.schema}))[0][0] == 0


async def test_migrators_at_once_wait_for_each_other(postgres_url: str, engine: AsyncEngine, owner: Owner) -> None:
    heads = await asyncio.gather(*(asyncio.to_thread(migrate, postgres_url, [owner]) for _ in range(4)))
    assert heads == [{owner.schema: "0001"}] * 4
