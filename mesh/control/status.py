"""What each data plane was sent, acknowledged and refused, and the file that tells operators."""

import asyncio
import contextlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from mesh.control.conversation import Ack, Nack
from mesh.control.history import History
from mesh.control.snapshot import ORDER
from mesh.files import PRIVATE_MODE, write_file

# Data planes that are remembered, connected or not.
_PLANES_MAX: Final = 2048
_LOOK_S: Final = 0.25
# Written at least so often, so that a reader can tell a control plane that hangs.
_BEAT_S: Final = 2.0
REASON_CHARACTERS_MAX: Final = 2000
FILE: Final = "status.json"


@dataclass(slots=True)
class Told:
    """One type of resource at one data plane. Versions are the control plane's; "" when there is none."""

    sent: str = ""
    acknowledged: str = ""
    rejected: str = ""
    reason: str = ""


@dataclass(slots=True)
class Plane:
    """One data plane. Times are seconds since the epoch."""

    workload: str
    node: str
    group: str
    since: float
    connected: bool = True
    types: dict[str, Told] = field(default_factory=lambda: {kind: Told() for kind in ORDER})

    def sent(self, kind: str, version: str) -> None:
        self.types[kind].sent = version

    def heard(self, event: Ack | Nack) -> None:
        told = self.types[event.kind]
        if isinstance(event, Ack):
            told.acknowledged = event.version
        else:
            told.rejected, told.reason = event.version, event.reason[:REASON_CHARACTERS_MAX]


class Planes:
    """All data planes that have spoken since the start, the longest silent ones forgotten first."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._planes: OrderedDict[tuple[str, str], Plane] = OrderedDict()

    def connected(self, workload: str, node: str, group: str) -> Plane:
        plane = self._planes[workload, node] = Plane(workload, node, group, self._now())
        self._planes.move_to_end((workload, node))
        while len(self._planes) > _PLANES_MAX:
            self._planes.popitem(last=False)
        return plane

    def rows(self) -> list[dict[str, Any]]:
        return [asdict(plane) for _, plane in sorted(self._planes.items())]


class Reporter:
    """Keeps <directory>/status.json: {written, zone, planes, changes, endpoints}. A service of the process."""

    def __init__(
        self, path: Path, zone: str, planes: Planes, history: History, endpoints: Callable[[], dict[str, str]]
    ) -> None:
        self._path = path
        self._zone = zone
        self._planes = planes
        self._history = history
        self._endpoints = endpoints
        self._last = ""
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._task = asyncio.create_task(self._run(), name="reporter")

    async def stop(self, grace_s: float) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        beat = 0.0
        while True:
            content = json.dumps(
                {
                    "zone": self._zone,
                    "planes": self._planes.rows(),
                    "changes": self._history.rows(),
                    "endpoints": self._endpoints(),
                }
            )
            if content != self._last or time.monotonic() - beat >= _BEAT_S:
                self._last, beat = content, time.monotonic()
                # A disk that is full must not end a control plane.
                with contextlib.suppress(OSError):
                    told = f'{{"written": {time.time():.3f}, {content[1:]}'
                    write_file(self._path, told.encode(), PRIVATE_MODE, durable=False)
            await asyncio.sleep(_LOOK_S)
