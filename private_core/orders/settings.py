"""What the orders room is told from outside."""

from typing import Final

from pydantic import Field

from private_core.storage.settings import IdempotencySettings

UNPAID_S: Final = 86_400.0


class OrdersSettings(IdempotencySettings):
    """Environment ISTHMUS_SETTLEMENT_* and ISTHMUS_UNPAID_*, beside the database's and the idempotency records'."""

    # How long an order keeps its goods without a payment. Then it is cancelled.
    unpaid_s: float = Field(default=UNPAID_S, ge=1, le=365 * 86_400)
    # How often those, and orders that nobody finishes cancelling are looked for.
    settlement_interval_s: float = Field(default=5.0, gt=0, le=3600)
