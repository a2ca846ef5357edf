"""What operators lay over the contract for a while: faults put into calls, and shares of traffic for canaries.

Every override ends by itself.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import grpc

from mesh.errors import InvalidArgument, MeshError, ResourceExhausted
from mesh.files import PRIVATE_MODE, read_file, write_file
from mesh.logs import logger

_OVERRIDES_MAX: Final = 256
# Nobody forgets an override for longer than this.
LIFE_S_MAX: Final = 3600.0
DELAY_MS_MAX: Final = 30_000
FILE: Final = "overrides.json"


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
    # The trace of its record in the audit log.
    record: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.percent <= 100 or not 0 <= self.delay_ms <= DELAY_MS_MAX:
            raise _invalid(f"{self.method}: percent is 1 to 100, delay_ms at most {DELAY_MS_MAX}")
        if self.abort and self.abort not in grpc.StatusCode.__members__:
            raise _invalid(f"{self.method}: {self.abort} is no gRPC status")
        if not self.abort and not self.delay_ms:
            raise _invalid(f"{self.method}: a fault delays or aborts")

    @property
    def code(self) -> int:
        """The number of the status."""
        return int(grpc.StatusCode[self.abort].value[0])

    @property
    def of(self) -> str:
        return self.method


@dataclass(frozen=True, slots=True)
class Split:
    """Some nodes of a workload get so many percent of its calls, the others the rest."""

    workload: str
    nodes: tuple[str, ...]
    percent: int
    expires: float
    record: str = ""

    def __post_init__(self) -> None:
        if not self.nodes or not 1 <= self.percent <= 99:
            raise _invalid(f"{self.workload}: name nodes, and a share of 1 to 99 percent")

    @property
    def of(self) -> str:
        return self.workload


@dataclass(frozen=True, slots=True)
class Overrides:
    faults: tuple[Fault, ...] = ()
    splits: tuple[Split, ...] = ()

    def fault(self, path: str) -> Fault | None:
        return next((fault for fault in self.faults if fault.method == path), None)

    def split(self, workload: str) -> Split | None:
        return next((split for split in self.splits if split.workload == workload), None)


class OverrideBook:
    """The overrides in force, and their file, from which the next life of this control plane takes them up.

    How long one has left is measured by a clock that nobody sets: `expires` is for people, and for that next life.
    """

    def __init__(
        self,
        path: Path,
        changed: Callable[[], None],
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """changed: called when one is laid or ended by somebody; what ends by itself is for `next_end_s` to tell."""
        self._path = path
        self._changed = changed
        self._now = now
        self._monotonic = monotonic
        self._log = logger("control")
        # By what they are laid over; with the end of each, by the monotonic clock.
        self._laid: dict[str, tuple[Fault | Split, float]] = {}
        for each in self._restored():
            self._enter(each)

    @property
    def current(self) -> Overrides:
        self._drop_ended()
        alive = [each for each, _ in self._laid.values()]
        return Overrides(
            tuple(each for each in alive if isinstance(each, Fault)),
            tuple(each for each in alive if isinstance(each, Split)),
        )

    def next_end_s(self) -> float | None:
        """Seconds until the next one ends; None while there is none."""
        now = self._monotonic()
        return min((max(0.0, ends - now) for _, ends in self._laid.values()), default=None)

    def lay(self, added: Fault | Split) -> None:
        """Lay one, in place of what is laid over the same. Raises InvalidArgument and ResourceExhausted."""
        if not self._now() < added.expires <= self._now() + LIFE_S_MAX:
            raise _invalid(f"{added.of}: an override lives at most {LIFE_S_MAX:.0f} s")
        self._drop_ended()
        if len(self._laid) >= _OVERRIDES_MAX and added.of not in self._laid:
            raise ResourceExhausted(
                "OVERRIDES_EXHAUSTED",
                f"more than {_OVERRIDES_MAX} overrides",
                remedy="end some: isthmus override clear",
            )
        self._enter(added)
        self._write()
        self._changed()

    def clear(self, of: str = "") -> int:
        """End what is laid over a method or a workload, or everything; how many that were."""
        self._drop_ended()
        ended = [each for each in self._laid if of in ("", each)]
        for each in ended:
            del self._laid[each]
        if ended:
            self._write()
            self._changed()
        return len(ended)

    def _drop_ended(self) -> None:
        now = self._monotonic()
        self._laid = {of: (each, ends) for of, (each, ends) in self._laid.items() if now < ends}

    def _enter(self, added: Fault | Split) -> None:
        left_s = min(added.expires - self._now(), LIFE_S_MAX)
        self._laid[added.of] = (added, self._monotonic() + left_s)

    def _write(self) -> None:
        current = self.current
        written = {"faults": list(map(asdict, current.faults)), "splits": list(map(asdict, current.splits))}
        write_file(self._path, json.dumps(written, indent=1).encode(), PRIVATE_MODE)

    def _restored(self) -> list[Fault | Split]:
        """What an earlier life left and has not ended. A file that cannot be read leaves nothing, which is safe."""
        if not self._path.exists():
            return []
        try:
            found: dict[str, list[dict[str, Any]]] = json.loads(read_file(self._path))
            faults = [Fault(**each) for each in found["faults"]]
            splits = [Split(**{**each, "nodes": tuple(each["nodes"])}) for each in found["splits"]]
            laid: list[Fault | Split] = [*faults, *splits]
        except (OSError, ValueError, TypeError, KeyError, MeshError) as error:
            self._log.error("overrides of an earlier life are lost", reason=f"{type(error).__name__}: {error}")
            return []
        return [each for each in laid if self._now() < each.expires][:_OVERRIDES_MAX]


def _invalid(message: str) -> InvalidArgument:
    return InvalidArgument("OVERRIDE_INVALID", message, remedy="See isthmus override --help")
