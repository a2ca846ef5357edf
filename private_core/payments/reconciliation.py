"""Holds the provider's statement of a day against the books. Every difference is named and written down; nothing is
adjusted: what to do about one is for people to decide.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

from mesh import telemetry
from mesh.clock import Clock
from mesh.errors import FailedPrecondition, MeshError, ResourceExhausted
from mesh.logs import logger
from private_core.payments import statement
from private_core.payments.reconciliation_store import PAGE, ReconciliationStore, bounds
from private_core.payments.statement import Difference, Line, Statements
from private_core.times import to_datetime

INTERVAL_S: Final = 3600.0
DAYS_BACK: Final = 4
DIFFERENCES_MAX: Final = 10_000
# An operation begun at the end of a day may be stated on the next one; and one begun just now, not at all yet.
_LATE: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Report:
    """lines: in the statement of the day. differences: the first 10,000."""

    provider: str
    day: date
    lines: int
    differences: tuple[Difference, ...]


class Reconciliation:
    """Harmless in several replicas at once: the same differences are found, and stand once."""

    def __init__(self, store: ReconciliationStore, provider: Statements, clock: Clock) -> None:
        self._store = store
        self._provider = provider
        self._clock = clock
        self._log = logger("reconciliation")
        self._differences = telemetry.meter().create_counter("payments.differences")

    async def round(self) -> int:
        """Reconcile the last days, the oldest first, that were not yet; how many were now.

        A provider may state a day only long after it; its day may not be ours.
        """
        done = 0
        for back in range(DAYS_BACK, 0, -1):
            day = self._today() - timedelta(days=back)
            if await self._store.done(self._provider.name, day):
                continue
            try:
                await self.run(day)
                done += 1
            except MeshError as error:
                self._log.warning("a day is not reconciled yet", day=day.isoformat(), reason=error.reason)
        return done

    async def run(self, day: date) -> Report:
        """Hold one day against the books. Raises MeshError; what was found until then stays written down."""
        if day > self._today():
            raise FailedPrecondition("DAY_NOT_BEGUN", "that day has not begun", remedy="name today or a day before")
        # What ended here until now: what is stated later than this is not missing.
        until = to_datetime(self._clock.now_us()) - _LATE
        differences: list[Difference] = []
        stated: set[str] = set()
        lines = 0
        page: list[Line] = []
        async for line in self._provider.lines(day):
            lines += 1
            if line.operation_id in stated:
                differences.append(statement.twice_there(line))
            stated.add(line.operation_id)
            page.append(line)
            if len(page) == PAGE:
                differences += await self._compared(page)
                page = []
        differences += await self._compared(page)
        differences += await self._missing(day, until, stated)
        if len(differences) > DIFFERENCES_MAX:
            raise ResourceExhausted(
                "DIFFERENCES_TOO_MANY",
                f"{len(differences)} differences in {lines} lines: this is hardly the statement of this ledger",
                remedy="see that the provider's account is the one that this mesh uses",
            )
        await self.found(differences, day)
        await self._store.finished(self._provider.name, day, lines, len(differences))
        self._log.info("reconciled", day=day.isoformat(), lines=lines, differences=len(differences))
        return Report(self._provider.name, day, lines, tuple(differences))

    async def found(self, differences: Sequence[Difference], day: date | None = None) -> None:
        """Write differences down, and say so once of each."""
        if differences and await self._store.found(self._provider.name, differences, day):
            for one in differences:
                self._log.error("difference", operation=one.operation_id, name=one.name, here=one.here, there=one.there)
                self._differences.add(1, {"name": one.name.value})

    async def _compared(self, page: Sequence[Line]) -> list[Difference]:
        entries = await self._store.entries(line.operation_id for line in page)
        return [difference for line in page for difference in statement.compare(line, entries.get(line.operation_id))]

    async def _missing(self, day: date, until: datetime, stated: set[str]) -> list[Difference]:
        """What ended here by the provider's answer and is stated neither on its day nor on the next."""
        begins, ends = bounds(day)
        missing = []
        after = ""
        while True:
            entries = await self._store.answered(begins, min(ends, until), after)
            missing += [
                entry
                for entry in entries
                if entry.operation_id not in stated and statement.ACTS[entry.kind] in self._provider.acts
            ]
            if len(entries) < PAGE:
                break
            after = entries[-1].operation_id
        if missing and day < self._today():
            late = {entry.operation_id for entry in missing}
            async for line in self._provider.lines(day + timedelta(days=1)):
                late.discard(line.operation_id)
            missing = [entry for entry in missing if entry.operation_id in late]
        return [statement.unknown_there(entry) for entry in missing]

    def _today(self) -> date:
        return to_datetime(self._clock.now_us()).date()
