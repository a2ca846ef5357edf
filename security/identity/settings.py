"""What the identity agent of a zone is told by its environment."""

from datetime import timedelta

from pydantic import Field

from mesh.settings import ProcessSettings


class IdentitySettings(ProcessSettings):
    """Environment ISTHMUS_*: how long leaves live and how often the agent looks."""

    # Kafka's certificates are rotated with the same life: it reloads them itself.
    leaf_ttl_s: float = Field(default=12 * 3600, ge=4, le=24 * 3600)
    poll_s: float = Field(default=1.0, gt=0, le=60)
    # How long the other zone's root may take to appear before the agent calls it an error.
    other_root_wait_s: float = Field(default=30.0, gt=0, le=3600)

    @property
    def leaf_ttl(self) -> timedelta:
        return timedelta(seconds=self.leaf_ttl_s)
