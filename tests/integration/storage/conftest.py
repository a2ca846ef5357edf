"""A room with nothing but idempotency records, on the real PostgreSQL."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text

from mesh.database.engine import Database, async_engine, execute
from mesh.database.migrate import Owner, migrate
from private_core.storage.idempotency import CREATE_TABLE
from security.audit import postgres as audit_postgres


@pytest.fixture
async def room(postgres_url: str) -> AsyncIterator[Database]:
    migrate(postgres_url, [Owner.beside(audit_postgres.__file__)])
    engine = async_engine(postgres_url, "test")
    await execute(engine, text("CREATE SCHEMA IF NOT EXISTS room"))
    await execute(engine, text("DROP TABLE IF EXISTS room.idempotency"))
    await execute(engine, text(CREATE_TABLE.format(schema="room")))
    yield engine
    await engine.dispose()
