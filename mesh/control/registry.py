"""The endpoints of a zone, from the table of processes (topology.json)."""

import asyncio
import contextlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mesh.control.notice import changes
from mesh.logs import logger

# The one address that the public zone knows of the private one.
GATE: Final = "core-gateway"
_FILE_BYTES_MAX: Final = 8 << 20
# What can be asked how it is: a link between the zones lets bytes through, and is nobody's end.
_PROTOCOLS: Final = frozenset({"grpc", "https", "kafka"})
# The ports at which that is asked, the one that says most first.
_ASKED: Final = ("grpc", "http", "kafka", "metrics")


class TopologyError(ValueError):
    """The table of processes is missing or malformed."""


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """One listening port of one node."""

    workload: str
    # grpc, http, https, ads, ...
    listen: str
    node: str
    zone: str
    address: str
    port: int
    # The part of its zone in which the node stands; "" where the zone has no parts.
    sub_zone: str = ""
    # What is spoken there: grpc, https, kafka, ...
    protocol: str = "grpc"

    def __str__(self) -> str:
        return f"{self.address}:{self.port}"


def read(path: Path, zone: str) -> tuple[Endpoint, ...]:
    """What the control plane of `zone` may know: its own zone, and the gate into the private one. Sorted.

    Endpoints of the other zone are dropped here, so nothing that is built from the answer can ever fail over into it.
    Raises TopologyError.
    """
    try:
        if path.stat().st_size > _FILE_BYTES_MAX:
            raise TopologyError(f"{path} is larger than {_FILE_BYTES_MAX} bytes")
        rows = json.loads(path.read_bytes())["processes"]
        found = [endpoint for row in rows for endpoint in _endpoints(row)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TopologyError(f"{path} is no table of processes: {type(error).__name__}: {error}") from error
    return tuple(sorted(each for each in found if each.zone == zone or (each.workload, each.zone) == (GATE, "private")))


def _endpoints(row: dict[str, Any]) -> list[Endpoint]:
    workload, node, zone, sub_zone = row["workload"], row["node"], row["zone"], row.get("sub_zone", "")
    return [
        Endpoint(
            workload,
            listen["name"],
            node,
            zone,
            str(listen["address"]),
            int(listen["port"]),
            sub_zone,
            str(listen["protocol"]),
        )
        for listen in row["listens"]
    ]


def asked(endpoints: Iterable[Endpoint], zone: str) -> list[Endpoint]:
    """One port of each node of the zone, at which it says whether it is well. Sorted.

    That of gRPC, where it has one; else its HTTP front; else a broker's own; else its metrics port, which is all that
    identity agents have, and control planes beside ADS, and gateways beside the public's own.
    """
    by_node: defaultdict[str, dict[str, Endpoint]] = defaultdict(dict)
    for each in endpoints:
        if each.zone == zone and each.protocol in _PROTOCOLS:
            by_node[each.node][each.listen] = each
    found = [next((ports[listen] for listen in _ASKED if listen in ports), None) for ports in by_node.values()]
    return sorted(each for each in found if each is not None)


class Registry:
    """The endpoints of now. A table that cannot be read leaves the last good one in use."""

    def __init__(self, path: Path, zone: str, look_s: float) -> None:
        """look_s: between two looks where nobody tells of a new table."""
        self._path = path
        self._zone = zone
        self._look_s = look_s
        self._stamp = self._modified()
        self._log = logger("control")
        self.endpoints = read(path, zone)
        # Made when they are first asked for.
        self._nodes_of: tuple[Endpoint, ...] | None = None
        self._nodes: Mapping[str, frozenset[str]] = {}

    @classmethod
    async def wait(cls, path: Path, zone: str, look_s: float, timeout_s: float = 30.0) -> "Registry":
        """The registry, once the table is there. Raises TopologyError when it does not come."""
        try:
            async with asyncio.timeout(timeout_s), contextlib.aclosing(changes(path.parent, look_s)) as looks:
                async for _ in looks:
                    if path.exists():
                        break
        except TimeoutError as error:
            raise TopologyError(f"{path} did not come within {timeout_s:.0f} s") from error
        return cls(path, zone, look_s)

    def sub_zone(self, workload: str, node: str) -> str:
        """Where a node stands; "" where the table says nothing of it."""
        return next((each.sub_zone for each in self.endpoints if (each.workload, each.node) == (workload, node)), "")

    def nodes(self) -> Mapping[str, frozenset[str]]:
        """The workloads of this zone, and the nodes of each."""
        if self._nodes_of is not self.endpoints:
            found: defaultdict[str, set[str]] = defaultdict(set)
            for each in self.endpoints:
                if each.zone == self._zone:
                    found[each.workload].add(each.node)
            self._nodes_of = self.endpoints
            self._nodes = {workload: frozenset(nodes) for workload, nodes in found.items()}
        return self._nodes

    async def watch(self, changed: Callable[[], None]) -> None:
        """Follow the table, for ever; call `changed` when endpoints differ from before."""
        async with contextlib.aclosing(changes(self._path.parent, self._look_s)) as looks:
            async for _ in looks:
                if self.refresh():
                    changed()

    def refresh(self) -> bool:
        """Read the table again if its file is another one. True when endpoints differ from before."""
        stamp = self._modified()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            endpoints = read(self._path, self._zone)
        except TopologyError as error:
            self._log.error("topology refused, the last good one stays", reason=str(error))
            return False
        if endpoints == self.endpoints:
            return False
        self.endpoints = endpoints
        return True

    def _modified(self) -> tuple[int, int]:
        try:
            found = self._path.stat()
        except OSError:
            return (0, 0)
        return (found.st_mtime_ns, found.st_ino)
