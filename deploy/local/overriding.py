"""The files in which the control planes of this home look for overrides."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from deploy.local import topology
from deploy.local.errors import UnknownName
from deploy.local.settings import LauncherSettings
from mesh import contract
from mesh.contract.explain import find
from mesh.control.overrides import FILE, OverrideError, Overrides
from mesh.files import PRIVATE_MODE, write_file

ZONES: Final = ("public", "private")


@contextlib.contextmanager
def clear() -> Iterator[None]:
    """Turn an override that must not be into a plain refusal."""
    try:
        yield
    except OverrideError as error:
        raise UnknownName(str(error), "See isthmus override --help") from error


def method(name: str) -> tuple[str, str]:
    """Zone and path of the one method that is named so."""
    found = find(contract.load(), name)
    if len(found) != 1:
        raise UnknownName(f"{len(found)} methods are named {name}", "See them all: isthmus policy table")
    return found[0].zone, found[0].path


def workload(name: str, nodes: Sequence[str]) -> str:
    """The zone of a workload that has these nodes."""
    running = topology.read(LauncherSettings().layout.topology)
    zones = {one.node: one.zone for one in running.processes if one.workload == name}
    if unknown := sorted(set(nodes) - zones.keys()):
        raise UnknownName(f"{name} has no node {', '.join(unknown)}", f"It has {', '.join(sorted(zones)) or 'none'}")
    return zones[nodes[0]]


def read(zone: str) -> Overrides:
    """What is in force in a zone."""
    now = time.time()
    try:
        return Overrides.from_json(_path(zone).read_bytes(), now).alive(now)
    except (OSError, OverrideError):
        return Overrides()


def change(zone: str, how: Callable[[Overrides], Overrides]) -> None:
    path = _path(zone)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_file(path, how(read(zone)).to_json().encode(), PRIVATE_MODE)


def _path(zone: str) -> Path:
    return LauncherSettings().layout.run(f"control-{zone}") / FILE
