"""Which roots a workload trusts: its own zone's, and the other's only where the two zones meet."""

from pathlib import Path

from mesh.spiffe import ZONES
from security.identity import rotation

# Each of these talks to the other zone or is talked to by it, and checks the exact name of its peer besides the root.
# The private operator is the hand that runs both zones of one installation.
MEETING_POINTS = frozenset(
    {
        ("public", "edge-gateway"),
        ("public", "kafka"),
        ("public", "witness"),
        ("private", "core-gateway"),
        ("private", "bridge-inbound"),
        ("private", "bridge-outbound"),
        ("private", "audit"),
        ("private", "operator"),
    }
)

# Their HTTP servers can check a chain but not a name: they trust the gateway's issuer instead of the root.
BEHIND_GATEWAY = frozenset({"edge", "oauth"})


def trusted_zones(workload: str, zone: str) -> tuple[str, ...]:
    """The zones whose roots `workload` of `zone` trusts, its own first."""
    if zone not in ZONES:
        raise ValueError(f"no such zone: {zone}")
    if (zone, workload) in MEETING_POINTS:
        return (zone, *(other for other in ZONES if other != zone))
    return (zone,)


def bundle(home: Path, workload: str, zone: str) -> bytes | None:
    """The PEM roots `workload` trusts, or None while one of them does not exist yet."""
    try:
        return b"".join(rotation.known(home / "ca" / trusted, "root") for trusted in trusted_zones(workload, zone))
    except FileNotFoundError:
        return None
