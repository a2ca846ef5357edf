"""What the warehouse is told from outside."""

from pydantic import Field

from mesh.database.settings import DatabaseSettings


class WarehouseSettings(DatabaseSettings):
    """Environment ISTHMUS_WAREHOUSE_*, beside what every private room is told."""

    # Reports read many rows; their callers wait for 20 s at most.
    warehouse_statement_ms_max: int = Field(default=18_000, ge=100)
