"""Earlier runs: for comparison, and for the error budget of the month."""

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OBJECTIVES = (0.999, 0.9999)


@dataclass(frozen=True)
class Budget:
    """Of a month's public calls in drills: how many may fail under an objective, and how many did."""

    objective: float
    calls: int
    allowed: float
    failed: int

    @property
    def spent(self) -> float:
        """1 is all of it."""
        return self.failed / self.allowed if self.allowed else float(self.failed > 0)


def read(runs: Path) -> list[dict[str, Any]]:
    """Every report in the folder, the oldest first. One that cannot be read is left out."""
    found = []
    for file in sorted(runs.glob("*/report.json")):
        try:
            document = json.loads(file.read_text())
        except (OSError, ValueError):
            continue
        if isinstance(document, dict) and {"name", "figures", "began"} <= document.keys():
            found.append(document | {"folder": str(file.parent)})
    return found


def budget(runs: Iterable[dict[str, Any]], month: str) -> list[Budget]:
    """`month` as 2026-11."""
    figures = [run["figures"] for run in runs if str(run["began"]).startswith(month)]
    calls, failed = (sum(one[key] for one in figures) for key in ("public_calls", "public_failed"))
    return [Budget(one, calls, round(calls * (1 - one), 1), failed) for one in OBJECTIVES]


def prune(runs: Path, keep: int) -> None:
    folders: Sequence[Path] = sorted(path for path in runs.iterdir() if path.is_dir())
    for old in folders[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
