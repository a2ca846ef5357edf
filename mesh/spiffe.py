"""SPIFFE ids (SPIFFE-ID specification, section 2): who a workload is, as written in its certificate."""

import re
from dataclasses import dataclass, field
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
    # As it stands in certificates, tokens and records; put together once, for every call asks for it.
    uri: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        uri = f"spiffe://{self.trust_domain}/{self.zone}/{self.workload}"
        if not _URI.fullmatch(uri):
            raise ValueError(f"{uri!r} is not a SPIFFE id of this mesh: spiffe://<domain>/<public|private>/<workload>")
        object.__setattr__(self, "uri", uri)

    def __str__(self) -> str:
        return self.uri

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
