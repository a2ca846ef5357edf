"""What the members room is told from outside."""

from pydantic import Field

from private_core.storage.settings import IdempotencySettings
from security.keys.settings import KmsSettings


class MembersSettings(IdempotencySettings, KmsSettings):
    """Environment ISTHMUS_*: beside what every private room is told, its keys and its country."""

    # Bound into every encrypted value: one tenant's rows do not open in another's database.
    tenant: str = Field(default="isthmus", min_length=1, max_length=64)
    # ISO 3166 country in which what is personal about the members of this store stays.
    region: str = Field(default="CN", pattern="^[A-Z]{2}$")
    # ISO 3166 country whose rules read a phone number without a country code.
    default_region: str = Field(default="CN", pattern="^[A-Z]{2}$")
