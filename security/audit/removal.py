"""What retention removes, on record: each step of it leaves a record, in the transaction of the removal."""

import os
from dataclasses import dataclass
from typing import Final

import grpc

from mesh.clock import Clock
from mesh.settings import ProcessSettings
from security.audit.record import AuditRecord, Decision, clean

# No call is behind it: what a process does by itself, named as a method would be.
AUDITED_AS: Final = "/isthmus.policy.v1.Retention/Delete"
DAY_US: Final = 86_400_000_000


@dataclass(frozen=True, slots=True)
class Remover:
    """The process that removes, and the clock that it goes by."""

    settings: ProcessSettings
    clock: Clock

    def before_us(self, days: float) -> int:
        """What was last of use before this time, microseconds since the epoch, is kept no longer."""
        return self.clock.now_us() - int(days * DAY_US)

    def record(self, place: str, count: int, subject: str = "", how: str = "") -> AuditRecord:
        """That `count` things went from `place` (members.idempotency). subject: whose they were, where it was one's.

        how: what there is to say beyond that.
        """
        return AuditRecord(
            record_id=os.urandom(16).hex(),
            time_us=self.clock.now_us(),
            peer=str(self.settings.spiffe_id),
            token_subject="",
            token_client="",
            method=AUDITED_AS,
            data_subject=clean(subject),
            decision=Decision.ALLOWED,
            result=grpc.StatusCode.OK.name,
            reason=clean(f"REMOVED {count} {place} {how}".rstrip()),
            trace_id="",
            workload=self.settings.workload,
            node=self.settings.node,
        )


def removed(reason: str) -> tuple[str, int]:
    """The place, and how many things went from it, as a record says it. Raises ValueError for another reason."""
    word, count, place, *_ = reason.split(" ")
    if word != "REMOVED":
        raise ValueError(f"{reason!r} tells of no removal")
    return place, int(count)
