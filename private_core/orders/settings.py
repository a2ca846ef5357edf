"""What the orders room is told from outside."""

from pydantic import Field

from private_core.storage.settings import IdempotencySettings


class OrdersSettings(IdempotencySettings):
    """Environment ISTHMUS_SETTLEMENT_*, beside the database's and the idempotency records'."""

    # How often orders that nobody finishes cancelling are looked for.
    settlement_interval_s: float = Field(default=5.0, gt=0, le=3600)
