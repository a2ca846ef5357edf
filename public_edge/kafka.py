"""What every Kafka client of the edge needs: the broker's address and the node's certificate."""

import logging
from dataclasses import dataclass
from pathlib import Path

# librdkafka reports each failed connection; what matters is said once by whoever uses it.
SILENT = logging.Logger("librdkafka", logging.CRITICAL + 1)


@dataclass(frozen=True, slots=True)
class KafkaAccess:
    """directory: the identity as it rotates; a client reads it once, so it is made anew after a rotation."""

    bootstrap: str
    directory: Path
    client_id: str

    def options(self) -> dict[str, str | int | bool]:
        """librdkafka's options for mutual TLS 1.3 with PEM files."""
        live = self.directory.resolve()
        return {
            "bootstrap.servers": self.bootstrap,
            "client.id": self.client_id,
            "security.protocol": "ssl",
            "ssl.ca.location": str(live / "bundle.pem"),
            "ssl.certificate.location": str(live / "svid.pem"),
            "ssl.key.location": str(live / "key.pem"),
            "ssl.endpoint.identification.algorithm": "https",
            "reconnect.backoff.ms": 100,
            "reconnect.backoff.max.ms": 2000,
            "broker.address.ttl": 1000,
            "socket.keepalive.enable": True,
            "log_level": 3,
        }
