"""What the witness is told from outside."""

from pathlib import Path

from mesh.settings import ProcessSettings
from security.audit.checkpoint import VERIFIER_KEY


class WitnessSettings(ProcessSettings):
    """Environment ISTHMUS_WITNESS_*, beside what every process is told."""

    # The public key of the log to witness. Read until the log's first checkpoint was cosigned, and pinned with it.
    witness_log_key: Path | None = None

    @property
    def log_key_path(self) -> Path:
        return self.witness_log_key or self.home / VERIFIER_KEY
