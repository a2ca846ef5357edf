"""What the sandbox provider is told from outside."""

from pydantic import Field

from mesh.database.settings import DatabaseSettings


class SandboxSettings(DatabaseSettings):
    """Environment ISTHMUS_*. The database is for the audit log alone."""

    # Operations remembered; the oldest is forgotten first.
    sandbox_operations_max: int = Field(default=100_000, ge=1, le=10_000_000)
