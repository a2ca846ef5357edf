"""A real PostgreSQL and a real Kafka with mutual TLS in one home, and the processes of the bridge between them."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from deploy.local import postgres
from deploy.local.kafka import broker
from deploy.local.settings import REPOSITORY, Home
from deploy.local.topology import Process
from mesh.environment import GRPC
from security.identity import bundle, wallet
from security.identity.authority import Authority
from sync_bridge.kafka import client_settings

ROOMS = {
    "kafka": "public",
    "edge": "public",
    "bridge-inbound": "private",
    "bridge-outbound": "private",
    "operator": "private",
}
CACHE = REPOSITORY / ".cache"


def until(holds: Callable[[], bool], what: str, within_s: float = 30.0) -> None:
    """Wait for a condition; fail when it does not come about."""
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, f"not within {within_s} s: {what}"
        time.sleep(0.02)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


@dataclass
class Cluster:
    """One home with both servers."""

    home: Home
    authorities: dict[str, Authority]
    kafka: Process
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def bootstrap(self) -> str:
        return str(self.kafka.listen("kafka"))

    def issue(self, workload: str, ttl: timedelta = timedelta(hours=1)) -> None:
        zone = ROOMS[workload]
        roots = bundle.bundle(self.home.root, workload, zone)
        assert roots is not None
        leaf = self.authorities[zone].issue(workload, ttl)
        wallet.write(self.home.run(workload) / "identity", wallet.Wallet(leaf, roots))

    def start_postgres(self) -> None:
        asyncio.run(postgres.prepare(self.home))
        self._start("postgres", postgres.command(self.home))
        self._ready("postgres", lambda: asyncio.run(postgres.ping(self.home)))

    def start_kafka(self) -> None:
        asyncio.run(broker.prepare(self.home, CACHE, self.kafka))
        # A test removes a topic; no mesh does.
        with (self.home.run("kafka") / "server.properties").open("a") as file:
            file.write("delete.topic.enable=true\n")
        self._start("kafka", broker.command(self.home, CACHE))
        self._ready("kafka", lambda: broker.ping(self.home, self.bootstrap, 3.0))

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        process = self.running.pop(name)
        process.send_signal(number)
        process.wait(30)

    def _start(self, name: str, command: Sequence[str]) -> None:
        with self.home.log(name).open("ab") as log:
            self.running[name] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def _ready(self, name: str, ping: Callable[[], None]) -> None:
        def answers() -> bool:
            assert self.running[name].poll() is None, self.home.log(name).read_text()[-2000:]
            try:
                ping()
            except Exception:
                return False
            return True

        until(answers, f"{name} answers", 60)

    def admin(self) -> AdminClient:
        return broker.admin(self.home.identity("kafka"), self.bootstrap)

    def producer(self, workload: str = "edge") -> Producer:
        settings = client_settings(self.home.identity(workload), self.bootstrap, workload)
        return Producer(settings | {"enable.idempotence": True, "linger.ms": 5})

    def environment(self, workload: str, database_url: str, node: str) -> dict[str, str]:
        (port,) = free_ports(1)
        return {
            **os.environ,
            **GRPC,
            "ISTHMUS_HOME": str(self.home.root),
            "ISTHMUS_ZONE": ROOMS[workload],
            "ISTHMUS_WORKLOAD": workload,
            "ISTHMUS_NODE": node,
            "ISTHMUS_IDENTITY_DIR": str(self.home.identity(workload)),
            "ISTHMUS_GRPC_ADDRESS": f"127.0.0.1:{port}",
            "ISTHMUS_DATABASE_URL": database_url,
            "ISTHMUS_KAFKA_BOOTSTRAP": self.bootstrap,
        }


class Room:
    """One process of the bridge, started as the launcher would."""

    def __init__(self, module: str, environment: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                (sys.executable, "-m", module), env=environment, cwd=REPOSITORY, stdout=file, stderr=subprocess.STDOUT
            )

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)
