"""What a process that uses the database is told from outside."""

from pydantic import Field

from mesh.settings import ProcessSettings


class DatabaseSettings(ProcessSettings):
    """Environment ISTHMUS_DATABASE_*, beside what every process is told."""

    # SQLAlchemy's form: postgresql+psycopg://user@/database?host=<socket folder>. May hold a password, so never shown.
    database_url: str = Field(repr=False)
    # Connections of this process for lone statements, and as many for transactions. Many processes share one server.
    database_pool_size: int = Field(default=5, ge=1, le=50)
