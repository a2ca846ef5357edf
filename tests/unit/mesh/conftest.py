"""Identities from a real authority, and a process that stands on one of them."""

import dataclasses
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from mesh.channel import Channels
from mesh.contract import Contract, load
from mesh.settings import ProcessSettings
from mesh.tls import Identity
from security.identity import wallet
from security.identity.authority import Authority
from tests.ports import free_port


@dataclasses.dataclass
class Member:
    """A process of the mesh as far as servers and channels see one."""

    settings: ProcessSettings
    identity: Identity
    contract: Contract

    @property
    def channels(self) -> Channels:
        return Channels(self.identity, self.contract)


class Zone:
    def __init__(self, home: Path, zone: str, trust_domain: str = "isthmus.internal") -> None:
        self.home = home
        self.zone = zone
        self.authority = Authority.open_or_create(home / "ca" / zone, trust_domain, zone)

    def issue(self, workload: str, ttl: timedelta = timedelta(hours=1)) -> Path:
        """A new leaf for `workload`, live in its folder, trusting this zone's root alone."""
        directory = self.home / "run" / f"{self.zone}-{workload}" / "identity"
        root = (self.home / "ca" / self.zone / "root.pem").read_bytes()
        wallet.write(directory, wallet.Wallet(self.authority.issue(workload, ttl), root))
        return directory / "live"

    def join(self, workload: str, **settings: object) -> Member:
        directory = self.issue(workload)
        values = {
            "home": self.home,
            "zone": self.zone,
            "workload": workload,
            "node": f"{workload}-1",
            "identity_dir": directory,
            "grpc_address": f"127.0.0.1:{free_port()}",
        }
        return Member(ProcessSettings.model_validate(values | settings), Identity(directory), load())


@pytest.fixture
def zone(tmp_path: Path) -> Callable[[str], Zone]:
    return lambda name: Zone(tmp_path, name)


@pytest.fixture
def private(zone: Callable[[str], Zone]) -> Zone:
    return zone("private")
