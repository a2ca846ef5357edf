"""Fixtures of the bridge: the shared servers, and a database for each test."""

import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import KafkaException

from deploy.local import postgres
from deploy.local.mesh import LocalMesh
from deploy.local.migrate import create_database
from mesh.database.migrate import migrate
from sync_bridge.kafka import libpq_url
from tests.integration.bridge import events
from tests.integration.bridge.cluster import ZONES, Cluster, Room, until


@pytest.fixture(scope="session")
def cluster(kafka: Any) -> Cluster:
    identities = {workload: kafka.identity(zone, workload) for workload, zone in ZONES.items()}
    built = Cluster(kafka.bootstrap, identities, kafka.identity("public", "kafka"))
    until(lambda: _led(built), "every partition has a leader")
    return built


def _led(cluster: Cluster) -> bool:
    try:
        events.empty(cluster.admin())
    except KafkaException:
        return False
    return True


@pytest.fixture(scope="session")
def template(postgres_server: LocalMesh) -> str:
    """Name of a database with every schema of the mesh and no rows."""
    url = postgres.url(postgres_server.home, "template_bridge")
    create_database(url)
    migrate(url)
    return "template_bridge"


@pytest.fixture
def database_url(postgres_server: LocalMesh, template: str) -> Iterator[str]:
    """A database of the test's own. SQLAlchemy's form."""
    name = f"bridge_{uuid.uuid4().hex[:12]}"
    server = libpq_url(postgres.url(postgres_server.home, "postgres"))
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield postgres.url(postgres_server.home, name)
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
        environment = cluster.environment(workload, database_url, node, tmp_path)
        environment |= {f"ISTHMUS_{name.upper()}": str(value) for name, value in settings.items()}
        module = f"sync_bridge.{workload.removeprefix('bridge-')}"
        started.append(Room(module, environment, tmp_path / f"{node}.log"))
        return started[-1]

    yield start
    for room in started:
        if room.process.poll() is None:
            room.process.send_signal(signal.SIGCONT)
            room.end(signal.SIGKILL)
