"""What the catalog room is told from outside."""

from mesh.database.settings import DatabaseSettings


class CatalogSettings(DatabaseSettings):
    """Nothing beside what every room with a database is told."""
