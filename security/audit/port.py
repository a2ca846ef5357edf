"""Where audit records go."""

from typing import Protocol

from mesh.errors import Unavailable
from security.audit.record import AuditRecord


class AuditUnavailable(Unavailable):
    """No record can be written now, so nothing that needs one is answered."""

    def __init__(self) -> None:
        super().__init__(
            "AUDIT_UNAVAILABLE",
            "the audit log takes no records now, and without a record there is no answer",
            remedy="Try again later with the same idempotency key.",
        )


class AuditSink(Protocol):
    def require_open(self) -> None:
        """Raise AuditUnavailable when the last write failed, so that work is refused before it is done."""

    async def append(self, record: AuditRecord) -> None:
        """Return when the record is durable. Raises AuditUnavailable."""

    def enqueue(self, record: AuditRecord) -> None:
        """Take the record now and make it durable within a second. Raises AuditUnavailable when too many wait."""
