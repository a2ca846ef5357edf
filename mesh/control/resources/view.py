"""What the builders of resources look at: the contract, the endpoints and the names of the zone."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from mesh.contract import Contract, MethodPolicy
from mesh.control.overrides import Overrides
from mesh.control.registry import Endpoint
from mesh.spiffe import SpiffeId

EDGE_GATEWAY = "edge-gateway"
CORE_GATEWAY = "core-gateway"
OAUTH = "oauth"
GATEWAYS = frozenset({EDGE_GATEWAY, CORE_GATEWAY})
# A request body that a gateway takes, in bytes; also what it keeps to send again to another node.
BODY_BYTES_MAX = 64 << 10


@dataclass(frozen=True)
class Patience:
    """How long a gateway waits for a client: for the head of a request, for all of it, and for any sign at all."""

    head_s: float = 5
    request_s: float = 15
    silence_s: float = 30


@dataclass(frozen=True)
class View:
    trust_domain: str
    zone: str
    contract: Contract
    endpoints: tuple[Endpoint, ...]
    issuer: str
    audience: str
    # Holds <gateway>/sds-identity.yaml and <gateway>/sds-bundle.yaml.
    run: Path
    overrides: Overrides = field(default_factory=Overrides)
    # So many endpoints of a data plane's own sub-zone can be called, or it has no preference.
    near_nodes_min: int = 2
    patience: Patience = field(default_factory=Patience)

    def spiffe_id(self, zone: str, workload: str) -> SpiffeId:
        return SpiffeId(zone, workload, self.trust_domain)

    def of(self, workload: str, listen: str) -> tuple[Endpoint, ...]:
        return self._by_port.get((workload, listen), ())

    @cached_property
    def sub_zones(self) -> tuple[str, ...]:
        """Those in which data planes and endpoints stand; none where there is nothing to choose from."""
        found = sorted({each.sub_zone for each in self.endpoints if each.zone == self.zone})
        return tuple(filter(None, found)) if len(found) > 1 else ()

    @cached_property
    def _by_port(self) -> Mapping[tuple[str, str], tuple[Endpoint, ...]]:
        found: defaultdict[tuple[str, str], list[Endpoint]] = defaultdict(list)
        for each in self.endpoints:
            found[each.workload, each.listen].append(each)
        return {port: tuple(endpoints) for port, endpoints in found.items()}

    def methods(self, zone: str) -> tuple[MethodPolicy, ...]:
        """Every method of the services of a zone, by path."""
        return tuple(method for _, method in sorted(self.contract.methods.items()) if method.zone == zone)

    def grpc_workloads(self) -> tuple[str, ...]:
        """Workloads of this zone that the contract gives a service, by name."""
        return tuple(sorted({each.workload for each in self.contract.services.values() if each.zone == self.zone}))
