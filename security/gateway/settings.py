"""What a decision point is told by its environment."""

from mesh.database.settings import DatabaseSettings
from security.gateway.shield import Mode


class GatewaySettings(DatabaseSettings):
    """Environment ISTHMUS_*."""

    # ENFORCE refuses what looks like SQL or script; SHADOW counts and logs it alone, to see what would be refused.
    input_shield: Mode = Mode.ENFORCE
