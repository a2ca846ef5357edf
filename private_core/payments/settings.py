"""What the payments room is told from outside."""

from pydantic import Field

from mesh.database.settings import DatabaseSettings


class PaymentsSettings(DatabaseSettings):
    """Environment ISTHMUS_PROVIDER_* and ISTHMUS_SETTLEMENT_*, beside the database's."""

    # The longest that the provider may take to answer. Less than the callers' deadline, so that silence gets an answer.
    provider_timeout_s: float = Field(default=2.5, gt=0, le=30)
    # How often operations that nobody finishes any more are looked for.
    settlement_interval_s: float = Field(default=5.0, gt=0, le=3600)
