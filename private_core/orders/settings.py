"""What the orders room is told from outside."""

from private_core.storage.settings import IdempotencySettings


class OrdersSettings(IdempotencySettings):
    """Nothing beyond the database and its idempotency records."""
