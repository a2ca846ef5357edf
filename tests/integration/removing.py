"""Retention under a clock that the test moves."""

import time
from pathlib import Path

from mesh.settings import ProcessSettings
from security.audit.removal import DAY_US, Remover


class Ahead:
    """So many days ahead of the system's clock."""

    def __init__(self, days: float) -> None:
        self.days = days

    def now_us(self) -> int:
        return time.time_ns() // 1000 + int(self.days * DAY_US)

    def monotonic(self) -> float:
        return time.monotonic()


def remover(days: float = 0, workload: str = "members") -> Remover:
    """A process of `workload` whose clock is `days` ahead, and is believed."""
    settings = ProcessSettings(zone="private", workload=workload, node=f"{workload}-1", identity_dir=Path("none"))
    return Remover(settings, Ahead(days), step_days_max=1_000_000)
