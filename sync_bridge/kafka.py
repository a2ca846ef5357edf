"""How both directions reach Kafka: mutual TLS 1.3 with this process's own identity."""

import logging
from pathlib import Path
from typing import Any, Final

from pydantic import Field

from mesh.database.settings import DatabaseSettings

# Needs an RSA certificate, which nobody in the mesh has: a TLS 1.2 handshake fails, and TLS 1.3 has suites of its own.
# librdkafka has no setting for the least version.
_NO_TLS_1_2: Final = "ECDHE-RSA-AES256-GCM-SHA384"
# librdkafka writes to standard error; the error callback tells what matters.
SILENT: Final = logging.Logger("librdkafka", logging.CRITICAL + 1)


class BridgeSettings(DatabaseSettings):
    """What both directions are told from outside."""

    # host:port, or several separated by commas.
    kafka_bootstrap: str
    # Pause between two tries while Kafka or PostgreSQL is away: doubled each time, up to the most.
    bridge_backoff_s: float = Field(default=0.2, gt=0)
    bridge_backoff_s_max: float = Field(default=3.0, gt=0)
    # Least time between two looks at the outside for something that blocks: bounds how late a stop is noticed.
    bridge_poll_s: float = Field(default=0.2, gt=0, le=2)


def libpq_url(database_url: str) -> str:
    """SQLAlchemy's URL as libpq reads it."""
    return database_url.replace("postgresql+psycopg://", "postgresql://", 1)


def client_settings(identity: Path, bootstrap: str, client_id: str) -> dict[str, Any]:
    """librdkafka's settings for a client with the leaf of now.

    It reads the files once: after a rotation, make a new client. The link is resolved once, so that the
    certificate and its key are of the same issue.
    """
    leaf = identity.resolve()
    return {
        "bootstrap.servers": bootstrap,
        "client.id": client_id,
        "security.protocol": "ssl",
        "ssl.ca.location": str(leaf / "bundle.pem"),
        "ssl.certificate.location": str(leaf / "svid.pem"),
        "ssl.key.location": str(leaf / "key.pem"),
        "ssl.cipher.suites": _NO_TLS_1_2,
        "ssl.endpoint.identification.algorithm": "https",
        "allow.auto.create.topics": False,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1000,
        "topic.metadata.refresh.interval.ms": 30_000,
        "log_level": 2,
    }
