"""topology.json: which processes there are, whose identity they need and where each one listens."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from deploy.local.errors import NotRunning
from mesh.files import PUBLIC_MODE, write_file

LOOPBACK = "127.0.0.1"


def url(address: str, port: int) -> str:
    """As people write it: browsers take this machine for a secure place by its name alone."""
    return f"https://{'localhost' if address == LOOPBACK else address}:{port}"


@dataclass(frozen=True)
class Listen:
    """One listening TCP port."""

    name: str
    address: str
    port: int
    protocol: str
    tls: str = "1.3"
    client_cert: bool = True

    def __str__(self) -> str:
        return f"{self.address}:{self.port}"


@dataclass(frozen=True)
class Process:
    """One process of the mesh; `pid` is None while it does not run."""

    name: str
    zone: str
    workload: str
    node: str
    pid: int | None = None
    listens: tuple[Listen, ...] = ()
    # Which part of its zone it stands in; "" where the zone has no parts.
    sub_zone: str = ""

    @property
    def locality(self) -> dict[str, str]:
        """As xDS names it, in the bootstrap of a data plane."""
        return {"zone": self.zone, **({"sub_zone": self.sub_zone} if self.sub_zone else {})}

    @property
    def by_socket(self) -> bool:
        """Whether it is reached by PostgreSQL's Unix socket alone: no port, no certificate."""
        return self.workload in ("postgres", "backup")

    @property
    def runs(self) -> bool:
        """Whether it is a process; the others are identities that are used without one."""
        return bool(self.listens) or self.by_socket

    def listen(self, name: str) -> Listen | None:
        return next((listen for listen in self.listens if listen.name == name), None)


@dataclass(frozen=True)
class Topology:
    trust_domain: str
    processes: tuple[Process, ...]

    def of(self, workload: str) -> tuple[Process, ...]:
        return tuple(process for process in self.processes if process.workload == workload)

    def process(self, name: str) -> Process:
        return next(process for process in self.processes if process.name == name)


def write(path: Path, topology: Topology) -> None:
    """Replace the file in one step: a reader sees the old table or the new one, never a part."""
    write_file(path, (json.dumps(asdict(topology), indent=1) + "\n").encode(), PUBLIC_MODE, durable=False)


def read(path: Path) -> Topology:
    """The table that a launcher wrote.

    Raises:
        NotRunning: no launcher has written one here.
    """
    try:
        table = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise NotRunning(f"No mesh in {path.parent}", "Start one with `make run`") from error
    return Topology(table["trust_domain"], tuple(_processes(table["processes"])))


def _processes(rows: Iterable[dict[str, object]]) -> Iterable[Process]:
    for row in rows:
        listens = row.pop("listens")
        assert isinstance(listens, list)
        yield Process(**row, listens=tuple(Listen(**listen) for listen in listens))  # type: ignore[arg-type]
