"""What each data plane was sent, acknowledged and refused."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from mesh.control.conversation import Ack, Nack
from mesh.control.snapshot import ORDER

# Data planes that are remembered, connected or not.
_PLANES_MAX: Final = 2048
REASON_CHARACTERS_MAX: Final = 2000


@dataclass(slots=True)
class Told:
    """One type of resource at one data plane. Versions are the control plane's; "" when there is none."""

    sent: str = ""
    acknowledged: str = ""
    rejected: str = ""
    reason: str = ""


@dataclass(slots=True)
class Plane:
    """One data plane, with all of its streams: gRPC opens one for each name that it follows, and all are told the same.

    since: when the newest stream was opened, in seconds since the epoch.
    """

    workload: str
    node: str
    group: str
    since: float
    streams: int = 1
    types: dict[str, Told] = field(default_factory=lambda: {kind: Told() for kind in ORDER})

    @property
    def connected(self) -> bool:
        return self.streams > 0

    def gone(self) -> None:
        """One stream has ended."""
        self.streams -= 1

    def sent(self, kind: str, version: str) -> None:
        self.types[kind].sent = version

    def heard(self, event: Ack | Nack) -> None:
        told = self.types[event.kind]
        if isinstance(event, Ack):
            told.acknowledged = event.version
        else:
            told.rejected, told.reason = event.version, event.reason[:REASON_CHARACTERS_MAX]


class Planes:
    """All data planes that have spoken since the start; those that have left are forgotten first, the longest known of
    them before the others."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._planes: OrderedDict[tuple[str, str], Plane] = OrderedDict()

    def connected(self, workload: str, node: str, group: str) -> Plane:
        key = (workload, node)
        plane = self._planes.get(key)
        if plane is None or not plane.connected or plane.group != group:
            plane = self._planes[key] = Plane(workload, node, group, self._now())
        else:
            plane.streams, plane.since = plane.streams + 1, self._now()
        self._planes.move_to_end(key)
        if len(self._planes) > _PLANES_MAX:
            left = (each for each, known in self._planes.items() if not known.connected)
            del self._planes[next(left, next(iter(self._planes)))]
        return plane

    def after(self, workload: str, node: str, limit: int) -> list[Plane]:
        """By workload and node, those behind this one."""
        behind = sorted(key for key in self._planes if key > (workload, node))
        return [self._planes[key] for key in behind[:limit]]
