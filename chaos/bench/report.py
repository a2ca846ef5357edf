"""What a benchmark leaves behind: the machine and its results, as JSON and as a table."""

import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.table import Table

from mesh.files import PUBLIC_MODE, write_file


@dataclass(frozen=True, slots=True)
class Result:
    """A higher ratio is better; `target` is the least ratio asked for."""

    name: str
    value: float
    unit: str
    baseline: str
    baseline_value: float
    ratio: float
    target: float

    @property
    def held(self) -> bool:
        return self.ratio >= self.target


def asked(name: str, value: float, unit: str, wanted: float, ratio: Callable[[float, float], float]) -> Result:
    """A figure against what is asked for; ratio(value, wanted) is 1 where it is just met."""
    return Result(name, value, unit, "asked for", wanted, round(ratio(value, wanted), 3), 1.0)


def machine() -> dict[str, Any]:
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_mib": psutil.virtual_memory().total >> 20,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def write(path: Path, on: dict[str, Any], results: Sequence[Result]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"machine": on, "results": [asdict(result) for result in results]}, indent=2) + "\n"
    write_file(path, content.encode(), PUBLIC_MODE, durable=False)


def table(title: str, results: Sequence[Result]) -> Table:
    shown = Table(title=title)
    for column in ("figure", "value", "baseline", "baseline value", "ratio", "target"):
        shown.add_column(column, justify="left" if column in ("figure", "baseline") else "right")
    for result in results:
        shown.add_row(
            result.name,
            f"{result.value:,.0f} {result.unit}",
            result.baseline,
            f"{result.baseline_value:,.0f}",
            f"[{'green' if result.held else 'red'}]{result.ratio:.2f}[/]",
            f"{result.target:.2f}",
        )
    return shown


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
