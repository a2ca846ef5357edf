"""When drills begin by themselves: cron expressions, and hours in which none may."""

from collections.abc import Iterator
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pydantic
import yaml
from cronsim import CronSim, CronSimError
from pydantic import BaseModel, field_validator

from chaos.drill import library
from chaos.drill.errors import BadExperiment

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
REMEDY = "See docs/runbooks/drills.md for the format"
# A calendar that forbids everything is found out after so many tries.
TRIES_MAX = 10_000

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


class _Strict(BaseModel):
    model_config = {"extra": "forbid", "frozen": True}


class Forbidden(_Strict):
    """No drill begins on these days, or dates, from `begins` until before `ends`; by default the whole day."""

    days: list[Day] = list(DAYS)  # type: ignore[arg-type]
    dates: list[date] = []
    begins: time = time.min
    ends: time = time.max

    def holds(self, at: datetime) -> bool:
        there = at.date() in self.dates if self.dates else DAYS[at.weekday()] in self.days
        return there and self.begins <= at.time() < self.ends


class Entry(_Strict):
    cron: str
    drill: str

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, cron: str) -> str:
        try:
            CronSim(cron, datetime(2026, 1, 1))  # noqa: DTZ001 (no moment, only the expression is looked at)
        except CronSimError as error:
            raise ValueError(f"{cron!r} is no cron expression: {error}") from error
        return cron


class Calendar(_Strict):
    timezone: str = "UTC"
    forbidden: list[Forbidden] = []
    drills: list[Entry]

    @field_validator("timezone")
    @classmethod
    def _is_known(cls, timezone: str) -> str:
        try:
            ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"{timezone!r} is no time zone") from error
        return timezone

    def due(self, after: datetime) -> Iterator[tuple[datetime, str]]:
        """(when, drill) from `after` on, in the order of time, without what is forbidden.

        Ends when nothing more is to come, or when TRIES_MAX times in a row were forbidden.
        """
        here = after.astimezone(ZoneInfo(self.timezone))
        times = [iter(CronSim(entry.cron, here)) for entry in self.drills]
        coming = {number: at for number, one in enumerate(times) if (at := next(one, None))}
        tries = 0
        while coming and tries < TRIES_MAX:
            number = min(coming, key=lambda one: (coming[one], one))
            at = coming.pop(number)
            if following := next(times[number], None):
                coming[number] = following
            tries += 1
            if not any(one.holds(at) for one in self.forbidden):
                tries = 0
                yield at, self.drills[number].drill


def read(path: Path) -> Calendar:
    """
    Raises:
        BadExperiment: the file cannot be read, breaks the format, or names a drill that is none.
    """
    try:
        content: Any = yaml.safe_load(path.read_text())
        calendar = Calendar(**content) if isinstance(content, dict) else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadExperiment(f"{path} cannot be read: {error}".splitlines()[0], REMEDY) from error
    except pydantic.ValidationError as error:
        wrong = error.errors()[0]
        raise BadExperiment(f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}", REMEDY) from error
    if calendar is None or not calendar.drills:
        raise BadExperiment(f"{path} holds no calendar", REMEDY)
    for entry in calendar.drills:
        library.check(library.read(library.find(entry.drill)))
    return calendar
