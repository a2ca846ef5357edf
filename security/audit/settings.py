"""What the audit room is told from outside."""

from mesh.database.settings import DatabaseSettings


class AuditSettings(DatabaseSettings):
    """Nothing beside what every room with a database is told."""
