"""What is laid over the contract for a while, as the operator tells the control planes of this home."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from isthmus.control.v1 import control_pb2 as pb

from deploy.local import control_planes, topology
from deploy.local.errors import LauncherError, UnknownName
from deploy.local.settings import Home
from mesh import contract
from mesh.contract.explain import find
from mesh.spiffe import ZONES

_US: Final = 1_000_000


def method(name: str) -> tuple[str, str]:
    """Zone and path of the one method that is named so. Raises UnknownName."""
    found = find(contract.load(), name)
    if len(found) != 1:
        raise UnknownName(f"{len(found)} methods are named {name}", "See them all: isthmus policy table")
    if found[0].zone not in ZONES:
        raise UnknownName(f"{name} is called past all gateways", "Name a method of one zone: isthmus policy table")
    return found[0].zone, found[0].path


def zone_of(home: Home, workload: str, nodes: Sequence[str]) -> str:
    """The zone of a workload that has one of these nodes. Raises UnknownName."""
    zones = {
        one.zone for one in topology.read(home.topology).processes if one.workload == workload and one.node in nodes
    }
    if len(zones) != 1:
        raise UnknownName(f"{workload} has no node {', '.join(nodes)}", "See isthmus status")
    return zones.pop()


async def inject(home: Home, zone: str, request: pb.InjectFaultRequest) -> None:
    """Raises LauncherError."""
    async with control_planes.told(home, zone) as control:
        await control.InjectFault(request, wait_for_ready=True)


async def split(home: Home, zone: str, request: pb.SplitTrafficRequest) -> None:
    """Raises LauncherError."""
    async with control_planes.told(home, zone) as control:
        await control.SplitTraffic(request, wait_for_ready=True)


async def clear(home: Home, zone: str, of: str) -> None:
    """End what is laid over a method's path or a workload. Raises LauncherError."""
    async with control_planes.told(home, zone) as control:
        await control.ClearOverrides(pb.ClearOverridesRequest(of=of), wait_for_ready=True)


async def clear_all(home: Home) -> None:
    """End everything, in both zones. Raises LauncherError where a control plane does not answer; the other has then."""
    zones = control_planes.zones_of(home)
    answers = await asyncio.gather(*(clear(home, zone, "") for zone in zones), return_exceptions=True)
    for answer in answers:
        if answer is not None:
            raise answer


async def listed(home: Home) -> tuple[list[dict[str, Any]], Mapping[str, str]]:
    """All that are in force: {zone, kind, on, percent, delay_ms, abort, nodes, ends_in_s, record}.

    And the control planes that do not answer, with why. Raises NotRunning where no mesh runs.
    """
    zones = control_planes.zones_of(home)
    answers = await asyncio.gather(*(_listed(home, zone) for zone in zones), return_exceptions=True)
    rows: list[dict[str, Any]] = []
    silent: dict[str, str] = {}
    for zone, answer in zip(zones, answers, strict=True):
        if isinstance(answer, LauncherError):
            silent[f"control-{zone}"] = str(answer)
        elif isinstance(answer, BaseException):
            raise answer
        else:
            rows += answer
    return rows, silent


async def _listed(home: Home, zone: str) -> list[dict[str, Any]]:
    async with control_planes.told(home, zone) as control:
        now = await control.ListOverrides(pb.ListOverridesRequest(), wait_for_ready=True)
    return [
        *(_row(zone, "fault", each.method, each) for each in now.faults),
        *(_row(zone, "split", each.workload, each) for each in now.splits),
    ]


def _row(zone: str, kind: str, on: str, laid: pb.Fault | pb.Split) -> dict[str, Any]:
    fault = laid if isinstance(laid, pb.Fault) else pb.Fault()
    return {
        "zone": zone,
        "kind": kind,
        "on": on,
        "percent": laid.percent,
        "delay_ms": fault.delay_ms,
        "abort": fault.abort,
        "nodes": list(laid.nodes) if isinstance(laid, pb.Split) else [],
        "ends_in_s": round(laid.expires_us / _US - time.time(), 1),
        "record": laid.record,
    }
