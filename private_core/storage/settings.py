"""What a room with idempotency records that expire is told from outside."""

from pydantic import Field

from mesh.database.settings import DatabaseSettings


class IdempotencySettings(DatabaseSettings):
    """Environment ISTHMUS_IDEMPOTENCY_*, beside the database's."""

    # How long a key stays taken. After that the same key is a new intent.
    idempotency_days: float = Field(default=30, ge=1, le=3650)

    @property
    def idempotency_s(self) -> float:
        return self.idempotency_days * 86_400
