"""Which configurations a group has been offered, and what became of each: kept on disk, for operators and restarts."""

import contextlib
import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from mesh.control.snapshot import Snapshot
from mesh.files import PRIVATE_MODE, write_file

_CHANGES_KEPT: Final = 200
_SOURCES_KEPT: Final = 16
_FILE_BYTES_MAX: Final = 16 << 20
_FILE: Final = "changes.json"

# By type, then by name, in xDS's JSON form.
Configuration = Mapping[str, Mapping[str, dict[str, Any]]]


class Fate(StrEnum):
    # Data planes are being told, and not all of its types are acknowledged yet.
    OFFERED = "offered"
    # Acknowledged as a whole: what the group goes back to.
    GOOD = "good"
    # Refused by a data plane (NACK), and taken back.
    REJECTED = "rejected"
    # Refused here, before anybody was told.
    WITHHELD = "withheld"


@dataclass(frozen=True, slots=True)
class Difference:
    """One resource in which two configurations differ. None: it is not there."""

    kind: str
    name: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


def differences(before: Configuration, after: Configuration) -> list[Difference]:
    """By type, then by name."""
    names = sorted({(kind, name) for side in (before, after) for kind, found in side.items() for name in found})
    sides = [(kind, name, before.get(kind, {}).get(name), after.get(kind, {}).get(name)) for kind, name in names]
    return [Difference(*each) for each in sides if each[2] != each[3]]


@dataclass(slots=True)
class Change:
    """One configuration of one group. Times are seconds since the epoch."""

    group: str
    configuration: str
    offered: float
    fate: Fate = Fate.OFFERED
    decided: float | None = None
    # Of a refusal: who refused which version of which type, and why.
    node: str = ""
    kind: str = ""
    version: str = ""
    reason: str = ""


class History:
    """The changes of all groups, oldest first. Without a directory it forgets when the process ends."""

    def __init__(self, directory: Path | None = None, now: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._now = now
        self.changes: deque[Change] = deque(self._read(), maxlen=_CHANGES_KEPT)

    def offered(self, group: str, snapshot: Snapshot, source: Configuration | None = None) -> None:
        """Note a configuration that is offered; nothing when it is the group's newest already.

        What stood against one that was withheld, and is no longer, is forgotten.
        """
        newest = self.newest(group)
        if newest is not None and newest.configuration == snapshot.configuration:
            if newest.fate is not Fate.WITHHELD:
                return
            self.changes.remove(newest)
        if source is not None:
            self._keep(group, snapshot.configuration, source)
        self.changes.append(Change(group, snapshot.configuration, self._now()))
        self._write()

    def again(self, group: str, snapshot: Snapshot) -> None:
        """One that was refused is offered once more."""
        self.changes.append(Change(group, snapshot.configuration, self._now()))
        self._write()

    def accepted(self, group: str, snapshot: Snapshot) -> None:
        self._decide(group, snapshot.configuration, Fate.GOOD)

    def rejected(self, group: str, configuration: str, node: str, kind: str, version: str, reason: str) -> None:
        self._decide(group, configuration, Fate.REJECTED, node=node, kind=kind, version=version, reason=reason)

    def withheld(self, group: str, configuration: str, reason: str, source: Configuration | None = None) -> None:
        """A configuration that this control plane itself refuses to push."""
        newest = self.newest(group)
        if newest is not None and newest.configuration == configuration:
            # The same again: when it was looked at last, and what stands against it now.
            newest.fate, newest.decided, newest.reason = Fate.WITHHELD, self._now(), reason
            self._write()
            return
        if source is not None:
            self._keep(group, configuration, source)
        self.changes.append(Change(group, configuration, self._now()))
        self._decide(group, configuration, Fate.WITHHELD, reason=reason)

    def good(self, group: str) -> Configuration | None:
        """The source of the last configuration that the group acknowledged as a whole."""
        for change in reversed(self.changes):
            if change.group == group and change.fate is Fate.GOOD:
                return self.source(group, change.configuration)
        return None

    def knows_as_good(self, group: str, configuration: str) -> bool:
        return any(
            (each.group, each.configuration, each.fate) == (group, configuration, Fate.GOOD) for each in self.changes
        )

    def refused(self, group: str) -> list[tuple[str, str]]:
        """Types and versions that data planes of the group have refused, and not taken since."""
        newest = {each.configuration: each for each in self.changes if each.group == group}
        return [(each.kind, each.version) for each in newest.values() if each.fate is Fate.REJECTED]

    def newest(self, group: str) -> Change | None:
        """The change that the group was offered last."""
        return next((change for change in reversed(self.changes) if change.group == group), None)

    def source(self, group: str, configuration: str) -> Configuration | None:
        if self._directory is None:
            return None
        with contextlib.suppress(OSError, ValueError):
            found: Configuration = json.loads(self._source(group, configuration).read_bytes())
            return found
        return None

    def _decide(self, group: str, configuration: str, fate: Fate, **details: str) -> None:
        for change in reversed(self.changes):
            if (change.group, change.configuration) == (group, configuration):
                if change.fate is fate:
                    return
                change.fate, change.decided = fate, self._now()
                for name, value in details.items():
                    setattr(change, name, value)
                self._write()
                return

    def _source(self, group: str, configuration: str) -> Path:
        assert self._directory is not None
        return self._directory / f"{group}-{configuration}.json"

    def _keep(self, group: str, configuration: str, source: Configuration) -> None:
        if self._directory is None:
            return
        good = {(each.group, each.configuration) for each in self.changes if each.fate is Fate.GOOD}
        path = self._source(group, configuration)
        write_file(
            path, json.dumps({kind: dict(found) for kind, found in source.items()}, indent=1).encode(), PRIVATE_MODE
        )
        kept = sorted(self._directory.glob(f"{group}-*.json"), key=lambda each: each.stat().st_mtime, reverse=True)
        for old in kept[_SOURCES_KEPT:]:
            if (group, old.stem.removeprefix(f"{group}-")) not in good:
                old.unlink(missing_ok=True)

    def _write(self) -> None:
        if self._directory is not None:
            write_file(
                self._directory / _FILE,
                json.dumps([asdict(change) for change in self.changes], indent=1).encode(),
                PRIVATE_MODE,
            )

    def _read(self) -> list[Change]:
        """What an earlier life of this control plane left. A file that cannot be read is none."""
        if self._directory is None:
            return []
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._directory / _FILE
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            if path.stat().st_size <= _FILE_BYTES_MAX:
                return [Change(**{**row, "fate": Fate(row["fate"])}) for row in json.loads(path.read_bytes())]
        return []
