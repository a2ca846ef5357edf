"""What the orders room is told from outside."""

from mesh.database.settings import DatabaseSettings


class OrdersSettings(DatabaseSettings):
    """Nothing beyond the database."""
