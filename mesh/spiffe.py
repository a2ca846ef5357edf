"""SPIFFE ids (SPIFFE-ID specification, section 2): who a workload is, as written in its certificate."""

import re
from dataclasses import dataclass
from typing import Final

TRUST_DOMAIN: Final = "isthmus.internal"
ZONES: Final = ("public", "private")
_URI = re.compile(r"spiffe://([a-z0-9._-]{1,255})/(public|private)/([a-z][a-z0-9-]{0,62})")


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """One workload of one zone: spiffe://<trust domain>/<zone>/<workload>."""

    zone: str
    workload: str
    trust_domain: str = TRUST_DOMAIN

    def __post_init__(self) -> None:
        if not _URI.fullmatch(str(self)):
            raise ValueError(
                f"{str(self)!r} is not a SPIFFE id of this mesh: spiffe://<domain>/<public|private>/<workload>"
            )

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}/{self.zone}/{self.workload}"

    @property
    def dns_name(self) -> str:
        """The DNS name that the same leaf carries, for clients that check host names and not URIs."""
        return f"{self.workload}.{self.zone}.{self.trust_domain}"

    @classmethod
    def parse(cls, uri: str) -> "SpiffeId":
        """Read a URI SAN. Raises ValueError for anything but the exact form above."""
        found = _URI.fullmatch(uri)
        if found is None:
            raise ValueError(f"{uri[:300]!r} is not a SPIFFE id of this mesh")
        return cls(trust_domain=found[1], zone=found[2], workload=found[3])
