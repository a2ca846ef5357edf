"""Servers shared by the tests of the bridge; each test has its own database."""

import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import KafkaException

from deploy.local import postgres, topics
from deploy.local.migrate import create_database
from deploy.local.settings import Home
from deploy.local.topology import Listen, Process
from mesh import contract
from mesh.database.migrate import migrate
from security.identity.authority import Authority
from sync_bridge.kafka import libpq_url
from tests.integration.bridge.cluster import ROOMS, Cluster, Room, free_ports, until
from tests.integration.bridge.events import empty


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    home = Home(tmp_path_factory.mktemp("bridge"))
    (home.root / "logs").mkdir()
    kafka_port, raft_port = free_ports(2)
    listens = (Listen("kafka", "127.0.0.1", kafka_port, "kafka"), Listen("raft", "127.0.0.1", raft_port, "kafka"))
    authorities = {
        zone: Authority.open_or_create(home.root / "ca" / zone, "isthmus.internal", zone)
        for zone in ("public", "private")
    }
    built = Cluster(home, authorities, Process("kafka", "public", "kafka", "kafka", None, listens))
    for workload in ROOMS:
        built.issue(workload)
    try:
        built.start_postgres()
        create_database(postgres.url(home, "template_isthmus"))
        migrate(postgres.url(home, "template_isthmus"))
        yield built
    finally:
        for name in list(built.running):
            built.kill(name, signal.SIGQUIT if name == "postgres" else signal.SIGKILL)


@pytest.fixture(scope="session")
def kafka(cluster: Cluster) -> Cluster:
    """The cluster with its broker running and the contract's topics made."""
    cluster.start_kafka()
    topics.ensure(cluster.admin(), contract.load().events.values())
    until(lambda: _led(cluster), "every partition has a leader")
    return cluster


def _led(cluster: Cluster) -> bool:
    try:
        empty(cluster.admin())
    except KafkaException:
        return False
    return True


@pytest.fixture
def database_url(cluster: Cluster) -> Iterator[str]:
    """A database of the test's own, with every schema of the mesh. SQLAlchemy's form."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    server = libpq_url(postgres.url(cluster.home, "postgres"))
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template_isthmus")
    yield postgres.url(cluster.home, name)
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(libpq_url(database_url), autocommit=True) as connection:
        yield connection


@pytest.fixture
def start_room(cluster: Cluster, database_url: str, tmp_path: Path) -> Iterator[Callable[..., Room]]:
    """start_room("bridge-inbound", node=..., **settings) -> Room; all are killed at the end."""
    started: list[Room] = []

    def start(workload: str, node: str = "", **settings: object) -> Room:
        node = node or workload
        environment = cluster.environment(workload, database_url, node)
        environment |= {f"ISTHMUS_{name.upper()}": str(value) for name, value in settings.items()}
        module = f"sync_bridge.{workload.removeprefix('bridge-')}"
        started.append(Room(module, environment, tmp_path / f"{node}.log"))
        return started[-1]

    yield start
    for room in started:
        if room.process.poll() is None:
            room.process.send_signal(signal.SIGCONT)
            room.end(signal.SIGKILL)
