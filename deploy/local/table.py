"""The table of processes: everything that one machine runs, in the order in which ports are given out."""

import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from signal import SIGINT, SIGTERM, Signals
from string import ascii_lowercase

from deploy.local import backup, copies, envoy, links, networks, postgres, replication
from deploy.local.health import Probe, probe
from deploy.local.kafka import broker
from deploy.local.settings import Home, LauncherSettings
from deploy.local.topology import Listen, Process, Topology, url
from deploy.local.xds_bootstrap import write_xds_bootstrap
from mesh.database.migrate import owners
from mesh.database.roles import as_role
from mesh.environment import GRPC

# Both, because those that stand between the zones trust the roots of both.
AUTHORITIES = ("identity-public", "identity-private")


@dataclass(frozen=True)
class Row:
    """One process. Without a command it is only an identity that others use."""

    process: Process
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    # Rows that must be ready before this one starts.
    after: tuple[str, ...] = ()
    # Directory with the identity that it must have before it starts.
    identity: Path | None = None
    # Runs before every start: writes configuration, makes directories.
    prepare: Callable[[], Awaitable[None]] | None = None
    ready: Probe | None = None
    # On two cores everything starts at once, and each process alone would take a few seconds.
    ready_within_s: float = 180.0
    # Runs to its end once, instead of staying.
    one_shot: bool = False
    # Runs only while it is asked for, and is known to nobody until then.
    spare: bool = False
    stop_signal: Signals = SIGTERM
    grace_s: float = 15.0
    # The network that it runs in; "" is this machine's.
    namespace: str = ""

    @property
    def name(self) -> str:
        return self.process.name


@dataclass(frozen=True)
class Room:
    """One line of the table below."""

    zone: str
    workload: str
    module: str
    replicas: int
    listens: tuple[str, ...]
    after: tuple[str, ...]


# zone, workload, module, replicas (0: as many as there are edge nodes), listens, after
ROOMS = (
    Room("public", "control-public", "mesh.control", 1, ("ads", "metrics"), ()),
    Room("private", "control-private", "mesh.control", 1, ("ads", "metrics"), ()),
    Room("public", "witness", "security.witness", 1, ("http", "metrics"), ()),
    Room("private", "audit", "security.audit", 1, ("grpc", "metrics"), ("migrate",)),
    Room("private", "oauth", "security.oauth", 2, ("grpc", "http", "metrics"), ("migrate",)),
    Room("private", "gateway", "security.gateway", 2, ("grpc", "metrics"), ("migrate", "oauth-1")),
    Room("private", "members", "private_core.members", 2, ("grpc", "metrics"), ("migrate", "oauth-1")),
    Room("private", "orders", "private_core.orders", 2, ("grpc", "metrics"), ("migrate", "oauth-1")),
    Room("private", "sandbox-provider", "private_core.payments.sandbox", 1, ("grpc", "metrics"), ()),
    Room("private", "payments", "private_core.payments", 2, ("grpc", "metrics"), ("migrate", "oauth-1")),
    Room("private", "catalog", "private_core.catalog", 2, ("grpc", "metrics"), ("migrate", "oauth-1")),
    Room("private", "warehouse", "private_core.warehouse", 1, ("grpc", "metrics"), ("migrate",)),
    Room("private", "bridge-inbound", "sync_bridge.inbound", 1, ("grpc", "metrics"), ("migrate", "topics")),
    Room("private", "bridge-outbound", "sync_bridge.outbound", 1, ("grpc", "metrics"), ("migrate", "topics")),
    Room("public", "edge", "public_edge.node", 0, ("http", "grpc", "metrics"), ("topics",)),
)
PROTOCOLS = {
    "ads": "grpc",
    "grpc": "grpc",
    "http": "https",
    "metrics": "https",
    "kafka": "kafka",
    "raft": "kafka",
    "private": "kafka",
}


def build(settings: LauncherSettings) -> tuple[Row, ...]:
    """Every row, from the settings alone: the same settings give the same ports."""
    return _Builder(settings).rows()


def topology(settings: LauncherSettings, rows: tuple[Row, ...], pids: Mapping[str, int]) -> Topology:
    """What the rest of the mesh is told; one-shot steps are no processes of it."""
    processes = (row.process for row in rows if not row.one_shot)
    return Topology(settings.trust_domain, tuple(replace(each, pid=pids.get(each.name)) for each in processes))


def public_view(table: Topology) -> Topology:
    """What the public zone is told where links lie between the zones: the core gateway is where its link listens."""
    core = table.process(links.NAME).listen("core")
    assert core is not None

    def seen(process: Process) -> Process:
        if process.name != "core-gateway":
            return process
        there = (replace(one, address=core.address, port=core.port) for one in process.listens if one.name == "https")
        listens = (*there, *(one for one in process.listens if one.name != "https"))
        return replace(process, listens=listens)

    return replace(table, processes=tuple(map(seen, table.processes)))


class _Builder:
    def __init__(self, settings: LauncherSettings) -> None:
        self.settings = settings
        self.home: Home = settings.layout
        self.edge_port = settings.port_base
        self.core_port = settings.port_base + 1
        self.next_port = settings.port_base + 2
        self.kafka_bootstrap = settings.kafka_bootstrap or ""
        self.brokers = broker.names(1 if settings.kafka_bootstrap else settings.kafka_brokers)
        self.database_nodes = replication.wanted(settings)
        self.database_url = settings.database_url or postgres.url(self.home, nodes=self.database_nodes)
        # What the rooms dial: the database, or the link that lies before it.
        self.database_from_rooms = self.database_url
        self.control: dict[str, str] = {}
        self.witness = ""
        # What bridges dial: the broker, or the link that lies before it.
        self.kafka_from_private = self.kafka_bootstrap
        self.ways: dict[str, list[dict[str, str]]] = {}
        self.link_listens: tuple[Listen, ...] = ()

    def rows(self) -> tuple[Row, ...]:
        rows = [self.python("public", "identity-public", "security.identity", ("metrics",), ())]
        rows.append(self.python("private", "identity-private", "security.identity", ("metrics",), ()))
        # The identity that the operator's command uses; it has no process.
        rows.append(Row(Process("operator", "private", "operator", "operator")))
        if not self.settings.database_url:
            rows += [self.postgres(node) for node in self.database_nodes]
            if self.settings.backup:
                rows.append(self.backup(self.settings.backup.absolute()))
        rows.append(self.migrate())
        if not self.settings.kafka_bootstrap:
            rows.extend(self.kafka())
        else:
            # The step that makes the topics still needs an identity that the broker knows.
            rows.append(Row(Process(self.brokers[0], "public", broker.WORKLOAD, self.brokers[0])))
        if self.settings.fault_links:
            rows.append(self.links())
        rows.append(self.topics())
        for room in ROOMS:
            rows.extend(self.room(room))
        rows.append(self.gateway("edge-gateway", "public", self.edge_port, client_cert=False))
        rows.append(self.gateway("core-gateway", "private", self.core_port, client_cert=True))
        rows.extend(self.spares())
        if self.settings.zone_networks:
            base = self.settings.port_base
            rows = [replace(row, namespace=networks.namespace(base, row.process.zone)) for row in rows]
        return tuple(rows)

    def spares(self) -> list[Row]:
        """Edge nodes that may be added, with the last of the ports: whoever has none has the same ports as before."""
        room, first = next(room for room in ROOMS if room.workload == "edge"), self.settings.edge_nodes
        numbers = range(first, first + self.settings.edge_spares)
        return [replace(self.replica(room, f"{room.workload}-{n + 1}", n), spare=True) for n in numbers]

    def room(self, room: Room) -> list[Row]:
        replicas = room.replicas or self.settings.edge_nodes
        numbered = replicas > 1 or room.replicas == 0
        names = [f"{room.workload}-{n}" for n in range(1, replicas + 1)] if numbered else [room.workload]
        return [self.replica(room, name, number) for number, name in enumerate(names)]

    def replica(self, room: Room, name: str, number: int) -> Row:
        sub_zone = self.sub_zone(number)
        return self.python(room.zone, room.workload, room.module, room.listens, room.after, name, sub_zone)

    def sub_zone(self, number: int) -> str:
        """Where the replica of this number stands, counted from 0."""
        parts = self.settings.sub_zones
        return ascii_lowercase[number % parts] if parts > 1 else ""

    def listens(self, names: tuple[str, ...], zone: str) -> tuple[Listen, ...]:
        first, address = self.next_port, self.settings.address(zone)
        self.next_port += len(names)
        return tuple(Listen(name, address, first + n, PROTOCOLS[name]) for n, name in enumerate(names))

    def python(
        self,
        zone: str,
        workload: str,
        module: str,
        listens: tuple[str, ...],
        after: tuple[str, ...],
        name: str = "",
        sub_zone: str = "",
    ) -> Row:
        """A process of the mesh itself: one module, run with `python -m`."""
        process = Process(
            name or workload, zone, workload, name or workload, None, self.listens(listens, zone), sub_zone
        )
        environment = self.environment(process)
        if workload.startswith("control-"):
            self.control[zone] = str(process.listen("ads"))
        authority = workload.startswith("identity-")
        before = () if authority else (*AUTHORITIES, *after)
        control = self.control.get(zone, "")
        # Only those that use the database or Kafka learn where it is.
        if "migrate" in after:
            # Somebody else's server has the roles that its owner gave it, and the URL says which one.
            folders = () if self.settings.database_url else [owner.versions.parent for owner in owners()]
            environment["ISTHMUS_DATABASE_URL"] = as_role(self.database_from_rooms, workload, folders)
            if self.link_before_database:
                before = (*before, links.NAME)
        if workload == "witness":
            self.witness = str(process.listen("http"))
        if workload == "audit":
            environment["ISTHMUS_WITNESS_ADDRESS"] = self.witness
        if workload == "edge":
            environment["ISTHMUS_EDGE_NODES"] = str(self.settings.edge_nodes + self.settings.edge_spares)
        if "topics" in after:
            environment["ISTHMUS_KAFKA_BOOTSTRAP"] = (
                self.kafka_bootstrap if zone == "public" else self.kafka_from_private
            )
        if workload == "control-public" and self.settings.fault_links:
            environment["ISTHMUS_TOPOLOGY"] = str(self.home.public_topology)

        async def prepare() -> None:
            write_xds_bootstrap(self.home, process, control)

        if not authority and not workload.startswith("control-"):
            before = (*before, f"control-{zone}")
            environment["ISTHMUS_CONTROL_ADDRESS"] = control
            environment["GRPC_XDS_BOOTSTRAP"] = str(self.home.run(process.name) / "xds-bootstrap.json")
        return Row(
            process,
            (sys.executable, "-m", module),
            environment,
            before,
            None if authority else self.home.identity(process.name),
            prepare if control and "ISTHMUS_CONTROL_ADDRESS" in environment else None,
            probe(self.home, process),
        )

    def environment(self, process: Process) -> dict[str, str]:
        """What every process of the mesh is told, and what its zone and its listening ports add."""
        environment = {
            "ISTHMUS_ZONE": process.zone,
            "ISTHMUS_WORKLOAD": process.workload,
            "ISTHMUS_NODE": process.node,
            "ISTHMUS_IDENTITY_DIR": str(self.home.identity(process.name)),
            "ISTHMUS_TRUST_DOMAIN": self.settings.trust_domain,
            "ISTHMUS_ISSUER": url(self.settings.address("public"), self.edge_port),
            **GRPC,
            # One arena for each of a process' many threads would double its resident memory.
            "MALLOC_ARENA_MAX": "2",
            "PYTHONUNBUFFERED": "1",
        }
        for listen in process.listens:
            variable = "GRPC" if listen.name == "ads" else listen.name.upper()
            environment[f"ISTHMUS_{variable}_ADDRESS"] = str(listen)
        return environment

    def migrate(self) -> Row:
        """One-shot: the database and every schema in it."""
        process = Process("migrate", "private", "migrate", "migrate")
        environment = self.environment(process) | {"ISTHMUS_DATABASE_URL": self.database_url}
        after = () if self.settings.database_url else self.database_nodes
        if self.settings.backup:
            # From the first commit on; and it is the last but one to stop.
            after = (*after, backup.WORKLOAD)
        return Row(process, (sys.executable, "-m", "deploy.local.migrate"), environment, after, one_shot=True)

    def topics(self) -> Row:
        """One-shot: topics and who may use them. It speaks as the broker itself, the only super user."""
        process = Process("topics", "public", broker.WORKLOAD, "topics")
        environment = self.environment(process) | {
            "ISTHMUS_KAFKA_BOOTSTRAP": self.kafka_bootstrap,
            "ISTHMUS_IDENTITY_DIR": str(self.home.identity(self.brokers[0])),
        }
        after = AUTHORITIES if self.settings.kafka_bootstrap else self.brokers
        command = (sys.executable, "-m", "deploy.local.topics")
        return Row(process, command, environment, after, self.home.identity(self.brokers[0]), one_shot=True)

    def postgres(self, node: str) -> Row:
        process = Process(node, "private", "postgres", node)

        async def prepare() -> None:
            if len(self.database_nodes) > 1:
                await replication.prepare(self.home, node)
            else:
                await replication.prepare_alone(self.home)

        return Row(
            process,
            postgres.command(self.home, node),
            prepare=prepare,
            ready=probe(self.home, process),
            # SIGINT is PostgreSQL's fast shutdown: it does not wait for clients to leave.
            stop_signal=SIGINT,
        )

    def backup(self, directory: Path) -> Row:
        process = Process(backup.WORKLOAD, "private", backup.WORKLOAD, backup.WORKLOAD)

        async def prepare() -> None:
            await backup.prepare(self.home, directory, self.database_nodes)

        return Row(
            process,
            backup.command(self.home, directory, self.database_nodes),
            {},
            self.database_nodes,
            prepare=prepare,
            ready=probe(self.home, process),
            ready_within_s=copies.TAKE_DEADLINE_S,
            stop_signal=backup.STOP_SIGNAL,
        )

    def kafka(self) -> list[Row]:
        names = ("kafka", "raft", "private") if self.settings.fault_links else ("kafka", "raft")
        cluster = [
            Process(name, "public", broker.WORKLOAD, name, None, self.listens(names, "public")) for name in self.brokers
        ]
        seen = [
            self.link("kafka", str(private)) if (private := one.listen("private")) else str(one.listen("kafka"))
            for one in cluster
        ]
        self.kafka_bootstrap = ",".join(str(one.listen("kafka")) for one in cluster)
        self.kafka_from_private = ",".join(seen)
        return [self.broker(one, cluster, advertised) for one, advertised in zip(cluster, seen, strict=True)]

    def broker(self, process: Process, cluster: list[Process], private_advertised: str) -> Row:
        async def prepare() -> None:
            await broker.prepare(self.home, self.settings.cache, process, cluster, private_advertised)

        return Row(
            process,
            broker.command(self.home, self.settings.cache, process.name),
            {},
            AUTHORITIES,
            self.home.identity(process.name),
            prepare,
            probe(self.home, process),
        )

    def link(self, name: str, to: str) -> str:
        """One more way over a link between the zones; returns where it listens."""
        ways = self.ways.setdefault(name, [])
        address = self.settings.address("public")
        listen = Listen(f"{name}-{len(ways) + 1}" if ways else name, address, self.next_port, "tcp")
        self.next_port += 1
        self.link_listens += (listen,)
        ways.append({"listen": str(listen), "to": to})
        return str(listen)

    @property
    def link_before_database(self) -> bool:
        return self.settings.fault_links and self.settings.fault_link_database and not self.settings.database_url

    def links(self) -> Row:
        self.link("core", f"{self.settings.address('private')}:{self.core_port}")
        if self.link_before_database:
            self.database_from_rooms = postgres.url(self.home, nodes=self.database_nodes, through=f"{links.NAME}-")
            for node in self.database_nodes:
                ends = (self.home.sockets(f"{links.NAME}-{node}"), self.home.sockets(node))
                listen, to = (str(postgres.socket_path(end)) for end in ends)
                self.ways.setdefault("database", []).append({"listen": listen, "to": to})
        process = Process(links.NAME, "public", links.NAME, links.NAME, None, self.link_listens)
        environment = {"ISTHMUS_LINKS": json.dumps(self.ways), "PYTHONUNBUFFERED": "1"}
        command = (sys.executable, "-m", "deploy.local.links")
        return Row(process, command, environment, ready=probe(self.home, process))

    def gateway(self, name: str, zone: str, port: int, client_cert: bool) -> Row:
        https = Listen("https", self.settings.address(zone), port, "https", client_cert=client_cert)
        listens = (https, *self.listens(("metrics",), zone))
        process = Process(name, zone, name, name, None, listens, self.sub_zone(0))
        control = self.control[zone]

        async def prepare() -> None:
            envoy.prepare(self.home, process, control, self.settings.trust_domain)

        return Row(
            process,
            envoy.command(self.home, name),
            {},
            (
                *AUTHORITIES,
                f"control-{zone}",
                *((links.NAME,) if self.settings.fault_links and zone == "public" else ()),
            ),
            self.home.identity(name),
            prepare,
            probe(self.home, process),
            grace_s=10.0,
        )
