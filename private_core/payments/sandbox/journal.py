"""What the sandbox did, in a file for each day, so that it is still known after a restart and can be stated."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

from private_core.money import Money

DAYS_MAX: Final = 7
_SUFFIX: Final = ".jsonl"


@dataclass(frozen=True, slots=True)
class Entry:
    """One operation, as it was asked for and decided. decline_reason: empty when it was done."""

    key: str
    kind: str
    reference: str
    minor: int
    currency: str
    provider_id: str
    decline_reason: str
    time_us: int

    @property
    def amount(self) -> Money:
        return Money(self.minor, self.currency)

    @property
    def approved(self) -> bool:
        return not self.decline_reason

    @property
    def day(self) -> date:
        return datetime.fromtimestamp(self.time_us / 1_000_000, UTC).date()


class Journal:
    """Entries in `directory`. A line that a crash cut off is left out when it is read."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def append(self, entry: Entry) -> None:
        with self._path(entry.day).open("a") as file:
            file.write(json.dumps(asdict(entry)) + "\n")

    def read(self, day: date) -> Iterator[Entry]:
        """The entries of one day, UTC, in their order."""
        with contextlib.suppress(FileNotFoundError), self._path(day).open() as file:
            for line in file:
                with contextlib.suppress(json.JSONDecodeError, TypeError):
                    yield Entry(**json.loads(line))

    def newest(self, entries_max: int) -> list[Entry]:
        """The newest entries of all days that are kept, oldest first; removes older days."""
        days = sorted(date.fromisoformat(path.stem) for path in self._directory.glob(f"*{_SUFFIX}"))
        for day in days:
            if days[-1] - day >= timedelta(days=DAYS_MAX):
                self._path(day).unlink()
        found = [entry for day in days for entry in self.read(day)]
        return found[-entries_max:]

    def _path(self, day: date) -> Path:
        return self._directory / f"{day.isoformat()}{_SUFFIX}"
