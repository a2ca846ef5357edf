"""What the audit room is told from outside."""

from pathlib import Path

from pydantic import Field

from mesh.database.settings import DatabaseSettings


class AuditSettings(DatabaseSettings):
    """Environment ISTHMUS_AUDIT_*, beside what every room with a database is told."""

    # How soon new records are under a signed checkpoint.
    audit_checkpoint_s: float = Field(default=2.0, gt=0, le=10)
    # host:port of the witness in the other zone; without one, checkpoints lie in the file sink alone.
    witness_address: str | None = None
    # Rules as in alert_rules.json, in a file of your own.
    audit_alert_rules: Path | None = None
    # Where alerts are posted as JSON; without one they are in the process's log alone.
    audit_alert_webhook: str | None = Field(default=None, repr=False)
