"""Audit records in the writer's own transaction: what changed and what is on record about it are committed together."""

from sqlalchemy import Connection

from security.audit.postgres import INSERT, parameters
from security.audit.record import AuditRecord


def insert(connection: Connection, *records: AuditRecord) -> None:
    """Add records; they are durable when the transaction of `connection` (psycopg) is, or not at all."""
    driver = connection.connection.driver_connection
    assert driver is not None
    driver.execute(INSERT, parameters(records))
