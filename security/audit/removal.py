"""What retention removes, on record: each step of it leaves a record, in the transaction of the removal.

A clock that jumped ahead would remove what is still to be kept, and nothing brings that back. So a moment to go by is
asked for before each round, and refused where it is further ahead than a mesh that runs can have come since the last
one, by the database's memory and by its clock.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import grpc
import psycopg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh.clock import Clock
from mesh.database.engine import transact
from mesh.errors import FailedPrecondition
from mesh.settings import ProcessSettings
from security.audit.postgres import INSERT, parameters
from security.audit.record import AuditRecord, Decision, clean, new_record_id
from security.audit.transactional import record

# No call is behind it: what a process does by itself, named as a method would be.
AUDITED_AS: Final = "/isthmus.policy.v1.Retention/Delete"
DAY_US: Final = 86_400_000_000
# What a mesh may have been off for, or its clock may be wrong by, at the cost of so many days of keeping.
STEP_DAYS_MAX: Final = 3.0

_BELIEVE: Final = "SELECT believed, to_tell FROM audit.believe({claimed}, {step})"
_ASYNC: Final = text(_BELIEVE.format(claimed=":claimed", step=":step"))
_PLAIN: Final = _BELIEVE.format(claimed="%(claimed)s", step="%(step)s")


class ClockDisbelieved(FailedPrecondition):
    """Nothing is removed until the clock is right, or an operator says that it is."""

    def __init__(self) -> None:
        super().__init__(
            "RETENTION_CLOCK",
            f"this clock is more than {STEP_DAYS_MAX:g} days ahead of the last removal, or of the database's",
            remedy="Set the clock right. If it is, and the mesh was off for long: isthmus retention --accept-clock.",
        )


@dataclass(frozen=True, slots=True)
class Moment:
    """A time that is believed. Microseconds since the epoch."""

    now_us: int

    def before_us(self, days: float) -> int:
        """What was last of use before this time is kept no longer."""
        return self.now_us - int(days * DAY_US)


@dataclass(frozen=True, slots=True)
class Remover:
    """The process that removes, and the clock that it goes by."""

    settings: ProcessSettings
    clock: Clock
    step_days_max: float = STEP_DAYS_MAX

    async def moment(self, engine: AsyncEngine) -> Moment:
        """What to go by in a round. Raises ClockDisbelieved, which is on record then, or MeshError."""
        moment = Moment(self.clock.now_us())

        async def ask(connection: AsyncConnection) -> Any:
            answer = (await connection.execute(_ASYNC, self._claim(moment))).one()
            if answer.to_tell:
                await record(connection, self._refusal())
            return answer

        if not (await transact(engine, ask)).believed:
            raise ClockDisbelieved
        return moment

    def moment_by(self, connection: psycopg.Connection) -> Moment:
        """The same on a plain connection. Raises psycopg.Error for MeshError."""
        moment = Moment(self.clock.now_us())
        with connection.transaction():
            believed, to_tell = connection.execute(_PLAIN, self._claim(moment)).fetchall()[0]
            if to_tell:
                connection.execute(INSERT, parameters([self._refusal()]))
        if not believed:
            raise ClockDisbelieved
        return moment

    def _claim(self, moment: Moment) -> dict[str, Any]:
        claimed = datetime.fromtimestamp(moment.now_us / 1e6, UTC)
        return {"claimed": claimed, "step": timedelta(days=self.step_days_max)}

    def record(self, place: str, count: int, subject: str = "", how: str = "") -> AuditRecord:
        """That `count` things went from `place` (members.idempotency). subject: whose they were, where it was one's.

        how: what there is to say beyond that.
        """
        reason = clean(f"REMOVED {count} {place} {how}".rstrip())
        return self._record(Decision.ALLOWED, grpc.StatusCode.OK, reason, clean(subject))

    def _refusal(self) -> AuditRecord:
        return self._record(Decision.DENIED, grpc.StatusCode.FAILED_PRECONDITION, "RETENTION_CLOCK")

    def _record(self, decision: Decision, result: grpc.StatusCode, reason: str, subject: str = "") -> AuditRecord:
        return AuditRecord(
            record_id=new_record_id(),
            time_us=self.clock.now_us(),
            peer=str(self.settings.spiffe_id),
            token_subject="",
            token_client="",
            method=AUDITED_AS,
            data_subject=subject,
            decision=decision,
            result=result.name,
            reason=reason,
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
