"""The processes of the bridge as the launcher would start them, between a real PostgreSQL and a real Kafka."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from deploy.local.kafka import broker
from deploy.local.settings import REPOSITORY
from mesh.environment import GRPC
from sync_bridge.kafka import client_settings
from tests.integration.room import own
from tests.ports import free_port

ZONES = {"edge": "public", "bridge-inbound": "private", "bridge-outbound": "private"}


def until(holds: Callable[[], bool], what: str, within_s: float = 60.0) -> None:
    """Wait for a condition; fail when it does not come about."""
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, f"not within {within_s} s: {what}"
        time.sleep(0.02)


@dataclass
class Cluster:
    """Where the servers are, and who may speak to them. `identities` is by workload; `broker` may do everything."""

    bootstrap: str
    identities: dict[str, Path]
    broker: Path

    def admin(self) -> AdminClient:
        return broker.admin(self.broker, self.bootstrap)

    def client(self, workload: str) -> dict[str, Any]:
        return client_settings(self.identities[workload], self.bootstrap, workload)

    def producer(self, workload: str = "edge") -> Producer:
        return Producer(self.client(workload) | {"enable.idempotence": True, "linger.ms": 5})

    def environment(self, workload: str, database_url: str, node: str, home: Path) -> dict[str, str]:
        return {
            **os.environ,
            **GRPC,
            "ISTHMUS_HOME": str(home),
            "ISTHMUS_ZONE": ZONES[workload],
            "ISTHMUS_WORKLOAD": workload,
            "ISTHMUS_NODE": node,
            "ISTHMUS_IDENTITY_DIR": str(self.identities[workload]),
            "ISTHMUS_GRPC_ADDRESS": f"127.0.0.1:{free_port()}",
            "ISTHMUS_DATABASE_URL": own(database_url, workload),
            "ISTHMUS_KAFKA_BOOTSTRAP": self.bootstrap,
        }


class Room:
    """One process of the bridge."""

    def __init__(self, module: str, environment: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                (sys.executable, "-m", module), env=environment, cwd=REPOSITORY, stdout=file, stderr=subprocess.STDOUT
            )

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)
