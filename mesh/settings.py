"""What every process is told from outside: environment variables that begin with ISTHMUS_."""

from pathlib import Path
from typing import Final, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from mesh.spiffe import TRUST_DOMAIN, SpiffeId

# Where whoever speaks HTTP and no gRPC says whether it is well.
HEALTH_PATH: Final = "/-/health"


class ProcessSettings(BaseSettings):
    """The settings that all processes share. Rooms add their own in a subclass."""

    model_config = SettingsConfigDict(env_prefix="ISTHMUS_", frozen=True, extra="ignore")

    home: Path = Path("var")
    zone: Literal["public", "private"]
    workload: str
    # The instance's own name; several nodes may run one workload.
    node: str
    # Holds svid.pem, key.pem and bundle.pem; swapped whole when the leaf rotates.
    identity_dir: Path
    trust_domain: str = TRUST_DOMAIN

    # host:port; absent when the process does not listen there.
    grpc_address: str | None = None
    http_address: str | None = None
    metrics_address: str | None = None
    # The control plane of the zone.
    control_address: str | None = None

    issuer: str = "https://localhost"
    audience: str = "isthmus-core"

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    otlp_endpoint: str | None = None
    # Share of the requests that begin a trace of their own.
    trace_ratio: float = Field(default=0.01, ge=0, le=1)
    # How long a drain may take before what is left is cut.
    drain_s: float = Field(default=5.0, gt=0, le=60)
    # Calls that one server works on at a time; more are refused at once.
    concurrent_calls_max: int = Field(default=512, ge=1, le=65536)

    @property
    def spiffe_id(self) -> SpiffeId:
        return SpiffeId(trust_domain=self.trust_domain, zone=self.zone, workload=self.workload)
