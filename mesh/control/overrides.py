"""What operators lay over the contract for a while: faults put into calls, shares of traffic for canaries, and leave to
offer a refused configuration once more.

Every override ends by itself. They lie in one file, which an operator's command replaces as a whole.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import grpc

from mesh.logs import logger

_FILE_BYTES_MAX: Final = 1 << 20
_OVERRIDES_MAX: Final = 256
# Nobody forgets an override for longer than this.
LIFE_S_MAX: Final = 3600.0
DELAY_MS_MAX: Final = 30_000
FILE: Final = "overrides.json"


class OverrideError(ValueError):
    """An override that must not be. Says which and why."""


@dataclass(frozen=True, slots=True)
class Fault:
    """So many percent of the calls of one method wait, or fail with a status. expires: seconds since the epoch."""

    # /isthmus.orders.v1.Orders/GetOrder
    method: str
    percent: int
    expires: float
    delay_ms: int = 0
    # The name of a gRPC status; "" for none.
    abort: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.percent <= 100 or not 0 <= self.delay_ms <= DELAY_MS_MAX:
            raise OverrideError(f"{self.method}: percent is 1 to 100, delay_ms at most {DELAY_MS_MAX}")
        if self.abort and self.abort not in grpc.StatusCode.__members__:
            raise OverrideError(f"{self.method}: {self.abort} is no gRPC status")
        if not self.abort and not self.delay_ms:
            raise OverrideError(f"{self.method}: a fault delays or aborts")

    @property
    def code(self) -> int:
        """The number of the status."""
        return int(grpc.StatusCode[self.abort].value[0])


@dataclass(frozen=True, slots=True)
class Split:
    """Some nodes of a workload get so many percent of its calls, the others the rest."""

    workload: str
    nodes: tuple[str, ...]
    percent: int
    expires: float

    def __post_init__(self) -> None:
        if not self.nodes or not 1 <= self.percent <= 99:
            raise OverrideError(f"{self.workload}: name nodes, and a share of 1 to 99 percent")


@dataclass(frozen=True, slots=True)
class Retry:
    """The reason for which a configuration of a group was refused has passed: it is offered once more."""

    group: str
    configuration: str
    expires: float

    def __post_init__(self) -> None:
        if not self.group or not self.configuration:
            raise OverrideError("name the group and the configuration that is to be offered again")


@dataclass(frozen=True, slots=True)
class Overrides:
    faults: tuple[Fault, ...] = ()
    splits: tuple[Split, ...] = ()
    retries: tuple[Retry, ...] = ()

    def fault(self, path: str) -> Fault | None:
        return next((fault for fault in self.faults if fault.method == path), None)

    def split(self, workload: str) -> Split | None:
        return next((split for split in self.splits if split.workload == workload), None)

    def alive(self, now: float) -> "Overrides":
        """Those that have not ended."""
        faults = tuple(each for each in self.faults if now < each.expires)
        splits = tuple(each for each in self.splits if now < each.expires)
        return Overrides(faults, splits, tuple(each for each in self.retries if now < each.expires))

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: bytes, now: float) -> "Overrides":
        """Raises OverrideError for anything but what `to_json` writes, and for what would live too long."""
        try:
            found: dict[str, list[dict[str, Any]]] = json.loads(text)
            faults = tuple(Fault(**each) for each in found["faults"])
            splits = tuple(Split(**{**each, "nodes": tuple(each["nodes"])}) for each in found["splits"])
            retries = tuple(Retry(**each) for each in found.get("retries", ()))
        except (ValueError, TypeError, KeyError) as error:
            raise OverrideError(f"no overrides: {type(error).__name__}: {error}") from error
        overrides: tuple[Fault | Split | Retry, ...] = (*faults, *splits, *retries)
        if len(overrides) > _OVERRIDES_MAX:
            raise OverrideError(f"more than {_OVERRIDES_MAX} overrides")
        if any(each.expires > now + LIFE_S_MAX for each in overrides):
            raise OverrideError(f"an override lives at most {LIFE_S_MAX:.0f} s")
        return cls(faults, splits, retries)


class OverridesFile:
    """The overrides of now. A file that cannot be read leaves those that stand, until they end."""

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        self._path = path
        self._now = now
        self._stamp = (0, 0)
        self._read = Overrides()
        self._log = logger("control")
        self.current = Overrides()

    def refresh(self) -> bool:
        """Look again; True when what holds now differs from before."""
        try:
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_ino)
        except OSError:
            stamp = (0, 0)
        if stamp != self._stamp:
            self._stamp = stamp
            self._take(found.st_size if stamp != (0, 0) else 0)
        current = self._read.alive(self._now())
        changed = current != self.current
        self.current = current
        return changed

    def _take(self, size: int) -> None:
        try:
            if not 0 <= size <= _FILE_BYTES_MAX:
                raise OverrideError(f"more than {_FILE_BYTES_MAX} bytes")
            self._read = Overrides.from_json(self._path.read_bytes(), self._now()) if size else Overrides()
        except (OSError, OverrideError) as error:
            self._log.error("overrides refused, those that stand go on", reason=str(error))
