"""What a decision point is told by its environment."""

from mesh.database.settings import DatabaseSettings


class GatewaySettings(DatabaseSettings):
    """Environment ISTHMUS_*: what every process with a database is told, and nothing else."""
