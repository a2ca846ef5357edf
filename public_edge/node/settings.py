"""What an edge node is told from outside."""

import re
from pathlib import Path

from pydantic import Field

from mesh.settings import ProcessSettings

_NUMBER = re.compile(r"(\d+)$")


class EdgeSettings(ProcessSettings):
    http_address: str
    kafka_bootstrap: str
    # Where browsers reach the edge gateway; the issuer's address when absent.
    public_url: str | None = None
    # Nodes that share every campaign's budget.
    edge_nodes: int = Field(default=6, ge=1, le=1024)
    click_ttl_s: int = Field(default=7 * 86_400, ge=60, le=90 * 86_400)
    spool_bytes_max: int = Field(default=1 << 30, ge=1 << 20)
    spool_segment_bytes: int = Field(default=16 << 20, ge=1 << 16)

    @property
    def node_index(self) -> int:
        """From 0, by the number that ends the node's name; 0 without one."""
        found = _NUMBER.search(self.node)
        return (int(found[1]) - 1) % self.edge_nodes if found else 0

    @property
    def browser_url(self) -> str:
        return (self.public_url or self.issuer).rstrip("/")

    @property
    def spool_dir(self) -> Path:
        return self.home / "spool" / self.node

    @property
    def snapshot_path(self) -> Path:
        return self.home / "run" / self.node / "snapshot.bin"

    @property
    def click_keys_dir(self) -> Path:
        return self.home / "run" / "edge" / "click-keys"
