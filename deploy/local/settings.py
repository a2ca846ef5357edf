"""What the launcher is told by its environment, and where everything of one mesh lies."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from deploy.local import networks
from deploy.local.topology import LOOPBACK

REPOSITORY = Path(__file__).resolve().parents[2]
# The longest path of a Unix socket that Linux takes (sun_path, less the closing zero).
SOCKET_PATH_BYTES_MAX = 107
SOCKET_NAME_BYTES_MAX = len("/.s.PGSQL.5432.lock")


@dataclass(frozen=True)
class Home:
    """The layout of ISTHMUS_HOME."""

    root: Path

    @property
    def topology(self) -> Path:
        return self.root / "topology.json"

    @property
    def public_topology(self) -> Path:
        """The table as the public zone sees it, where it reaches the private one through a link."""
        return self.root / "topology-public.json"

    @property
    def lock(self) -> Path:
        return self.root / "launcher.lock"

    def run(self, process: str) -> Path:
        return self.root / "run" / process

    def identity(self, process: str) -> Path:
        return self.run(process) / "identity" / "live"

    def pid_file(self, process: str) -> Path:
        return self.run(process) / "pid"

    def log(self, process: str) -> Path:
        return self.logs / f"{process}.log"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def data(self, process: str) -> Path:
        return self.root / "data" / process

    def spool(self, process: str) -> Path:
        """Of an edge node: events that Kafka has not taken yet."""
        return self.root / "spool" / process

    def sockets(self, process: str) -> Path:
        """Directory of a process' Unix sockets: in its run directory, or under /tmp when that path is too long."""
        inside = self.run(process) / "sockets"
        if len(os.fsencode(inside)) + SOCKET_NAME_BYTES_MAX <= SOCKET_PATH_BYTES_MAX:
            return inside
        digest = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:12]
        return Path(f"/tmp/isthmus-{os.getuid()}-{digest}-{process}")  # noqa: S108 (created 0700, owner checked)


def _odd(brokers: int) -> int:
    if brokers % 2 == 0:
        raise ValueError("A quorum of an even number bears no more losses than one with a broker less: take 1, 3 or 5")
    return brokers


class LauncherSettings(BaseSettings):
    """Environment ISTHMUS_*: where the mesh lives, where it listens and what a user brings along."""

    model_config = SettingsConfigDict(env_prefix="ISTHMUS_", extra="ignore")

    home: Path = REPOSITORY / "var"
    # Downloads that all homes share: Kafka's jars, data sets.
    cache: Path = REPOSITORY / ".cache"
    trust_domain: str = "isthmus.internal"
    port_base: int = Field(default=18400, ge=1024, le=65000)
    edge_nodes: int = Field(default=6, ge=1, le=64)
    # Edge nodes that do not run but may be added while the mesh does: the parts of every budget are theirs, too.
    edge_spares: int = Field(default=0, ge=0, le=16)
    # Parts of each zone (rooms, racks, availability zones) that replicas are spread over, one after another: calls stay
    # in the caller's own part as long as somebody there is well.
    sub_zones: int = Field(default=1, ge=1, le=4)
    # A PostgreSQL or a Kafka that is already there; the launcher then starts none.
    database_url: str | None = None
    kafka_bootstrap: str | None = None
    # A second PostgreSQL that holds a copy of the first and takes over when it dies (deploy/local/failover.py). A home
    # in which it has taken over has both from then on.
    database_standby: bool = False
    # Where the database is backed up all the time, so that none of it is lost with this place (deploy/local/backup.py).
    backup: Path | None = None
    # ISO 3166 country in which what is personal stays: its store, and its backup.
    region: str = Field(default="CN", pattern="^[A-Z]{2}$")
    # How often a new copy is taken for it, in hours.
    backup_every_h: float = Field(default=24, ge=1 / 3600, le=24 * 7)
    # Brokers of our own. Two would bear the loss of neither, as one bears none; three bear the loss of one.
    kafka_brokers: Annotated[int, AfterValidator(_odd)] = Field(default=1, ge=1, le=5)
    # Lead what crosses between the zones through TCP proxies that drills can disturb (deploy/local/links.py).
    fault_links: bool = False
    # With them, lead the rooms' way to our own database through one, too: every statement then passes Python.
    fault_link_database: bool = False
    # Give each zone a network namespace of its own, and one cable between them that drills can cut. Takes root.
    zone_networks: bool = False
    # The least free space on the disk of the home, in MiB, to start at all.
    disk_free_mib_min: int = Field(default=1024, ge=0)

    @property
    def layout(self) -> Home:
        return Home(self.home.absolute())

    def address(self, zone: str) -> str:
        """Where the processes of a zone listen."""
        return networks.address(self.port_base, zone) if self.zone_networks else LOOPBACK
