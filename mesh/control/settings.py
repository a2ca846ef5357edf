"""What the control plane is told from outside."""

from pathlib import Path

from pydantic import Field

from mesh.settings import ProcessSettings


class ControlSettings(ProcessSettings):
    """Intervals are chosen for a mesh that notices a frozen process within a second."""

    # The table of processes; default: topology.json in the home.
    topology: Path | None = None
    # Where each gateway finds sds-identity.yaml and sds-bundle.yaml, as `<run>/<gateway>/`; default: run in the home.
    run: Path | None = None

    # Between two probes of an endpoint that answers; a lost connection is looked into at once.
    probe_interval_s: float = Field(default=0.5, gt=0, le=10)
    probe_timeout_s: float = Field(default=0.5, gt=0, le=10)
    # Probes under way at one time.
    probes_max: int = Field(default=32, ge=1, le=1024)
    # Between two looks at the table of processes where the filesystem does not tell of a new one.
    topology_look_s: float = Field(default=2.0, gt=0, le=60)
    # Calls stay in their part of a zone as long as so many endpoints there can be called. 1: though one is alone there,
    # and costs every call of its part when it freezes, until it is found out.
    near_nodes_min: int = Field(default=2, ge=1, le=100)
    # So long the gateways wait for the head of a request, for all of it, and for a client that neither sends nor reads.
    client_head_s: float = Field(default=5.0, gt=0, le=60)
    client_request_s: float = Field(default=15.0, gt=0, le=300)
    client_silence_s: float = Field(default=30.0, gt=0, le=300)
    # ADS streams of all data planes together, and of any one workload.
    streams_max: int = Field(default=1024, ge=1, le=4096)
    streams_per_workload_max: int = Field(default=64, ge=1, le=1024)
    # Streams that are refused count until they are, and must not stand in anybody's way.
    concurrent_calls_max: int = Field(default=4096, ge=1, le=65536)

    @property
    def topology_path(self) -> Path:
        return self.topology or self.home / "topology.json"

    @property
    def state_path(self) -> Path:
        """Where this control plane keeps what it has offered, and what became of it."""
        return self.run_path / self.node

    @property
    def run_path(self) -> Path:
        return (self.run or self.home / "run").absolute()
