"""A real PostgreSQL, a real Kafka and real certificates, each started once when the first test asks for it."""

import asyncio
import itertools
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

from deploy.local import migrate, postgres
from deploy.local.kafka import broker
from deploy.local.mesh import LocalMesh
from mesh.spiffe import ZONES
from security.identity import wallet
from security.identity.authority import Authority
from security.identity.bundle import BEHIND_GATEWAY, bundle
from tests.ports import free_port_base

T = TypeVar("T")
TRUST_DOMAIN = "isthmus.internal"
START_DEADLINE_S = 120.0
_database_numbers = itertools.count(1)


class Background:
    """An event loop in a thread, for what must live longer than one test's own loop."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="background", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], deadline_s: float = START_DEADLINE_S) -> T:
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(deadline_s)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@dataclass(frozen=True)
class Identities:
    """Issues real certificates from the authorities of a home, as the zones' agents would."""

    home: Path

    def issue(self, zone: str, workload: str, process: str = "", ttl: timedelta = timedelta(hours=1)) -> Path:
        """A new leaf for `workload`; returns the directory with svid.pem, key.pem, bundle.pem, keypair.pem."""
        authorities = {one: Authority.open_or_create(self.home / "ca" / one, TRUST_DOMAIN, one) for one in ZONES}
        authority = authorities[zone]
        directory = self.home / "run" / (process or workload) / "identity"
        roots = bundle(self.home, workload, zone)
        assert roots is not None
        gateway = authority.gateway_pem if workload in BEHIND_GATEWAY else None
        wallet.write(directory, wallet.Wallet(authority.issue(workload, ttl), roots, gateway))
        return directory / wallet.LIVE


@dataclass(frozen=True)
class Kafka:
    """A broker with the contract's topics and access rules."""

    bootstrap: str
    identities: Identities
    mesh: LocalMesh
    background: Background

    def identity(self, zone: str, workload: str) -> Path:
        """The identity directory of a client."""
        return self.identities.issue(zone, workload, f"client-{zone}-{workload}")

    def settings(self, zone: str, workload: str) -> dict[str, str | int | float | bool]:
        """librdkafka's settings as this workload."""
        return broker.client_settings(self.identity(zone, workload), self.bootstrap)

    def suspend(self) -> None:
        self.background.run(self.mesh.suspend("kafka"))

    def resume(self) -> None:
        self.background.run(self.mesh.resume("kafka"))
        self.background.run(self.mesh.wait_ready("kafka"))


@pytest.fixture(scope="session")
def background() -> Iterator[Background]:
    background = Background()
    yield background
    background.close()


@pytest.fixture(scope="session")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    return Identities(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory, background: Background) -> Iterator[LocalMesh]:
    """An embedded PostgreSQL of its own."""
    mesh = LocalMesh(tmp_path_factory.mktemp("postgres"), free_port_base(), only=("postgres",))
    background.run(mesh.start())
    yield mesh
    background.run(mesh.stop())


@pytest.fixture(scope="module")
def postgres_url(postgres_server: LocalMesh) -> str:
    """SQLAlchemy's URL of an empty database that only this test module uses."""
    url = postgres.url(postgres_server.home, f"test_{next(_database_numbers)}")
    migrate.create_database(url)
    return url


@pytest.fixture(scope="session")
def kafka(identities: Identities, background: Background) -> Iterator[Kafka]:
    """A broker of its own, in the home of `identities`."""
    mesh = LocalMesh(identities.home, free_port_base(), only=("topics",))
    background.run(mesh.start())
    yield Kafka(mesh.kafka_bootstrap, identities, mesh, background)
    background.run(mesh.stop())


@pytest.fixture(scope="session")
def kafka_bootstrap(kafka: Kafka) -> str:
    return kafka.bootstrap
