"""Who was given a grade, in PostgreSQL. What was given when, and by whom it was used, is in the audit log."""

from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.clock import Clock
from mesh.database.engine import execute
from private_core.members.domain import GivenGrade, Grade, grade_without_end
from private_core.times import to_datetime, to_us

_DAY_US: Final = 86_400_000_000
_GIVE: Final = text(
    """
    INSERT INTO members.grade (subject, grade, given_time, ends_time) VALUES (:subject, :grade, :now, :ends)
    ON CONFLICT (subject) DO UPDATE
        SET grade = excluded.grade, given_time = excluded.given_time, ends_time = excluded.ends_time
    """
)
_TAKE: Final = text("DELETE FROM members.grade WHERE subject = :subject")
_HELD: Final = text("SELECT grade FROM members.grade WHERE subject = :subject AND ends_time > :now")
_GIVEN: Final = text(
    "SELECT subject, grade, given_time, ends_time FROM members.grade WHERE ends_time > :now ORDER BY subject LIMIT 1000"
)


class Grades:
    def __init__(self, engine: AsyncEngine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    async def give(self, subject: str, grade: Grade, days: int) -> int:
        """Until when, microseconds since the epoch. In place of an earlier one. Raises Malformed without days."""
        if not days:
            raise grade_without_end()
        now_us = self._clock.now_us()
        ends_us = now_us + days * _DAY_US
        times = {"now": to_datetime(now_us), "ends": to_datetime(ends_us)}
        await execute(self._engine, _GIVE, {"subject": subject, "grade": grade.value} | times)
        return ends_us

    async def take(self, subject: str) -> None:
        """From the very next call on. From who has none: nothing changes."""
        await execute(self._engine, _TAKE, {"subject": subject})

    async def held(self, subject: str) -> Grade | None:
        """The grade that the subject has at this moment."""
        now = to_datetime(self._clock.now_us())
        rows = await execute(self._engine, _HELD, {"subject": subject, "now": now})
        return Grade(rows[0].grade) if rows else None

    async def given(self) -> list[GivenGrade]:
        """Those that have not ended, by subject; at most 1000."""
        rows = await execute(self._engine, _GIVEN, {"now": to_datetime(self._clock.now_us())})
        return [GivenGrade(row.subject, Grade(row.grade), to_us(row.given_time), to_us(row.ends_time)) for row in rows]
