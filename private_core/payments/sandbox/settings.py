"""What the sandbox provider is told from outside."""

from pydantic import Field

from mesh.settings import ProcessSettings


class SandboxSettings(ProcessSettings):
    """Environment ISTHMUS_*."""

    # Operations remembered; the oldest is forgotten first.
    sandbox_operations_max: int = Field(default=100_000, ge=1, le=10_000_000)
