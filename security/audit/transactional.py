"""Audit records in the writer's own transaction: what changed and what is on record about it are committed together."""

from typing import Final

from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

from security.audit.postgres import INSERT, parameters, recorded
from security.audit.record import AuditRecord

_RECORD: Final = text(recorded("CAST(:rows AS json)"))


def insert(connection: Connection, *records: AuditRecord) -> None:
    """Add records; they are durable when the transaction of `connection` (psycopg) is, or not at all."""
    driver = connection.connection.driver_connection
    assert driver is not None
    driver.execute(INSERT, parameters(records))


async def record(connection: AsyncConnection, *records: AuditRecord) -> None:
    """The same where a room's transaction is asyncio's."""
    await connection.execute(_RECORD, parameters(records))
