"""The newest snapshot of each group, the last good one behind it, and what data planes refused."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from mesh.control.history import Configuration, History
from mesh.control.snapshot import CONFIGURATION, RETIRING, Snapshot
from mesh.logs import logger

_REJECTIONS_KEPT: Final = 100
_VERSIONS_KEPT: Final = 256
# Clients that ask by name acknowledge a part, so what is refused may have been called good: there is one behind it.
_GOOD_KEPT: Final = 4
# What has been good for so long is not taken from everybody because one refuses it.
SETTLED_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Rejection:
    """One NACK."""

    group: str
    node: str
    kind: str
    version: str
    reason: str
    # Seconds since the epoch.
    time: float


@dataclass(slots=True)
class _Group:
    offered: Snapshot | None = None
    current: Snapshot | None = None
    # Acknowledged as a whole, the newest last, and since when by the monotonic clock.
    kept: deque[tuple[Snapshot, float]] = field(default_factory=lambda: deque(maxlen=_GOOD_KEPT))
    # (type, version), oldest first.
    acknowledged: deque[tuple[str, str]] = field(default_factory=lambda: deque(maxlen=_VERSIONS_KEPT))
    refused: deque[tuple[str, str]] = field(default_factory=lambda: deque(maxlen=_VERSIONS_KEPT))
    # Configurations that were refused and offered again, and how often.
    attempts: dict[str, int] = field(default_factory=dict)
    streams: set[asyncio.Event] = field(default_factory=set)

    @property
    def good(self) -> Snapshot | None:
        """The newest that was acknowledged as a whole and has not been refused since."""
        return next((each for each, _ in reversed(self.kept) if not self.refuses(each)), None)

    def refuses(self, snapshot: Snapshot) -> bool:
        return any((kind, snapshot.versions[kind]) in self.refused for kind in CONFIGURATION)

    def keep(self, snapshot: Snapshot, now: float) -> None:
        """It is good, with the endpoints of now."""
        since = next((since for each, since in self.kept if each.same_configuration(snapshot)), now)
        others = [(each, since) for each, since in self.kept if not each.same_configuration(snapshot)]
        self.kept.clear()
        self.kept.extend((*others, (snapshot, since)))

    def settled(self, kind: str, version: str, now: float) -> bool:
        """Whether this has been good for a while: as part of what was taken and refused, it never was."""
        return any(
            each.versions[kind] == version and now - since > SETTLED_S and not self.refuses(each)
            for each, since in self.kept
        )


class SnapshotCache:
    """What each group is told now.

    A configuration becomes good when every type of it has been acknowledged. Of clients that ask by name each sees but
    a part, so for a while it can still be refused. One that is refused is marked so and never offered again; its group
    goes back to the last good configuration, with the endpoints of now.
    """

    def __init__(
        self,
        now: Callable[[], float] = time.time,
        history: History | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic = monotonic
        self._groups: dict[str, _Group] = {}
        self.history = history or History(now=now)
        self._now = now
        self._log = logger("control")
        self.rejections: deque[Rejection] = deque(maxlen=_REJECTIONS_KEPT)
        # In all, also those no longer kept.
        self.rejected = 0

    def get(self, group: str, sub_zone: str = "") -> Snapshot | None:
        """What data planes of a group are told, in this sub-zone."""
        found = self._groups.get(group)
        return found.current.seen_from(sub_zone) if found and found.current else None

    def good(self, group: str) -> Snapshot | None:
        """The last configuration that was acknowledged as a whole."""
        found = self._groups.get(group)
        return found.good if found else None

    def restore(self, group: str, good: Snapshot | None) -> None:
        """Take up what an earlier life of this control plane knew: the last good snapshot, and what was refused."""
        state = self._groups.setdefault(group, _Group())
        if good is not None:
            state.keep(good, float("-inf"))
        state.refused.extend(self.history.refused(group))

    def set(
        self, group: str, snapshot: Snapshot, source: Configuration | None = None, *, outdated: bool = False
    ) -> None:
        """Offer a snapshot to a group. `source` is what the history keeps of its configuration.

        outdated: it stays because something newer was withheld, which remains the group's newest in the history.
        """
        state = self._groups.setdefault(group, _Group())
        if state.attempts:
            snapshot = replace(snapshot, attempt=state.attempts.get(snapshot.configuration, 0))
        state.offered = snapshot
        if not outdated and not state.refuses(snapshot):
            self.history.offered(group, snapshot, source)
        self._choose(state)
        current, good = state.current, state.good
        if current is not None and good is not None and current.same_configuration(good):
            # Data planes have it already, so none will acknowledge it anew.
            self.history.accepted(group, current)

    def subscribe(self, group: str, changed: asyncio.Event) -> None:
        """Set `changed` whenever the group has something new, until `unsubscribe`."""
        self._groups.setdefault(group, _Group()).streams.add(changed)

    def unsubscribe(self, group: str, changed: asyncio.Event) -> None:
        self._groups[group].streams.discard(changed)

    def acknowledge(self, group: str, kind: str, version: str) -> None:
        state = self._groups[group]
        if (kind, version) not in state.acknowledged:
            state.acknowledged.append((kind, version))
        current = state.current
        if current and all((each, current.versions[each]) in state.acknowledged for each in CONFIGURATION):
            state.keep(current, self._monotonic())
            self.history.accepted(group, current)

    def reject(self, group: str, node: str, kind: str, version: str, reason: str) -> None:
        """Record a NACK and take the group back to what was good; what has long been good stays."""
        self.rejected += 1
        self.rejections.append(Rejection(group, node, kind, version, reason, self._now()))
        self._log.error("configuration rejected", group=group, node_id=node, type=kind, version=version, reason=reason)
        state = self._groups[group]
        # Clusters that go were taken before: it is one of the new ones that is refused.
        refused = (kind, version.removesuffix(RETIRING))
        if kind in CONFIGURATION and not state.settled(*refused, self._monotonic()):
            state.refused.append(refused)
            if refused in state.acknowledged:
                state.acknowledged.remove(refused)
            if state.current is not None and refused in state.current.versions.items():
                self.history.rejected(group, state.current.configuration, node, *refused, reason)
            self._choose(state)

    def retry(self, group: str, configuration: str) -> bool:
        """Offer once more what was refused. False when it is not what the group is to be told, or was not refused."""
        state = self._groups.get(group)
        offered = state.offered if state is not None else None
        if state is None or offered is None or offered.configuration != configuration or not state.refuses(offered):
            return False
        kept = [each for each in state.refused if each not in offered.versions.items()]
        state.refused.clear()
        state.refused.extend(kept)
        # One at a time: what came before it has been decided.
        state.attempts = {configuration: offered.attempt + 1}
        state.offered = replace(offered, attempt=offered.attempt + 1)
        self._log.info("configuration offered again", group=group, configuration=configuration)
        self.history.again(group, state.offered)
        self._choose(state)
        return True

    def _choose(self, state: _Group) -> None:
        offered = state.offered
        if offered is None:
            return
        refused = state.refuses(offered)
        if refused and state.good is not None:
            chosen = state.good.with_endpoints_of(offered)
        elif refused and state.current is not None:
            # Nothing better is known: what is out there stays.
            chosen = state.current.with_endpoints_of(offered)
        else:
            chosen = offered
        before = state.current
        if before is not None and _same(before, chosen):
            return
        state.current = chosen
        for changed in state.streams:
            changed.set()


def _same(one: Snapshot, other: Snapshot) -> bool:
    # What sub-zones are told follows from the whole, once it is told to the same ones.
    return (one.versions, one.attempt, one.near.keys()) == (other.versions, other.attempt, other.near.keys())
