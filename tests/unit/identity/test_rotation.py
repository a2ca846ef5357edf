"""A root is replaced step by step, and at no moment does a live leaf come from a root that somebody does not trust."""

import json
import os
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from mesh.files import write_file
from security.identity import rotation
from security.identity.agent import Agent
from security.identity.authority import Authority

TRUST_DOMAIN = "isthmus.internal"
# On both sides of the crossing, and behind a gateway.
HOLDERS = (
    ("orders-1", "private", "orders"),
    ("oauth-1", "private", "oauth"),
    ("core-gateway", "private", "core-gateway"),
    ("edge-gateway", "public", "edge-gateway"),
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    rows: list[dict[str, object]] = [
        {"name": name, "zone": zone, "workload": workload, "node": name, "pid": None, "listens": []}
        for name, zone, workload in HOLDERS
    ]
    (tmp_path / "topology.json").write_text(json.dumps({"trust_domain": TRUST_DOMAIN, "processes": rows}))
    return tmp_path


@pytest.fixture
def agents(home: Path) -> list[Agent]:
    authorities = [Authority.open_or_create(home / "ca" / zone, TRUST_DOMAIN, zone) for zone in ("public", "private")]
    found = [Agent(home, one, timedelta(hours=12), other_root_wait_s=30.0) for one in authorities]
    for agent in found:
        agent.round()
    return found


def certificates(path: Path) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(path.read_bytes())


def live(home: Path, name: str) -> Path:
    return home / "run" / name / "identity" / "live"


def age(directory: Path) -> None:
    """Let what waits have waited long enough."""
    for name in ("next/gateway.pem", "previous-gateway.pem"):
        if (directory / name).exists():
            os.utime(directory / name, (0, 0))


def issued_by(leaf: x509.Certificate, issuers: list[x509.Certificate]) -> bool:
    for issuer in issuers:
        try:
            leaf.verify_directly_issued_by(issuer)
        except (InvalidSignature, ValueError):
            continue
        return True
    return False


def everybody_is_trusted(home: Path) -> None:
    """Each private leaf ends in a root that all who meet it have; the gateway's in what servers behind it have, too."""
    bundles = [certificates(live(home, name) / "bundle.pem") for name, _, _ in HOLDERS]
    for name in ("orders-1", "oauth-1"):
        leaf = certificates(live(home, name) / "svid.pem")[0]
        assert all(issued_by(leaf, roots) for roots in bundles)
    leaf, issuer = certificates(live(home, "core-gateway") / "svid.pem")
    assert all(issued_by(issuer, roots) for roots in bundles)
    assert issued_by(leaf, certificates(live(home, "oauth-1") / "gateway-ca.pem"))


def rounds(home: Path, agents: list[Agent]) -> None:
    """Each agent looks, in either order; after each look all is well."""
    for agent in (*agents, *agents[::-1]):
        agent.round()
        everybody_is_trusted(home)


def test_nobody_meets_a_root_that_he_does_not_know(home: Path, agents: list[Agent]) -> None:
    directory = home / "ca" / "private"
    before = (directory / "root.pem").read_bytes()
    rotation.request(directory)
    rounds(home, agents)
    assert len(certificates(live(home, "edge-gateway") / "bundle.pem")) == 3
    assert (directory / "root.pem").read_bytes() == before, "nobody has had the time to learn of the next one"
    age(directory)
    rounds(home, agents)
    after = (directory / "root.pem").read_bytes()
    assert after != before
    assert issued_by(certificates(live(home, "orders-1") / "svid.pem")[0], certificates(directory / "root.pem"))
    assert before in (live(home, "orders-1") / "bundle.pem").read_bytes(), "leaves of the one before are still about"
    age(directory)
    rounds(home, agents)
    assert not rotation.under_way(directory)
    assert (live(home, "orders-1") / "bundle.pem").read_bytes() == after


def test_what_is_under_way_is_waited_for(home: Path, agents: list[Agent]) -> None:
    directory = home / "ca" / "private"
    rotation.request(directory)
    rounds(home, agents)
    shown = (directory / "next" / "root.pem").read_bytes()
    rotation.request(directory)
    rounds(home, agents)
    assert (directory / "next" / "root.pem").read_bytes() == shown


@pytest.mark.parametrize("left", ["root.key", "root.pem", "gateway.key"])
def test_a_switch_that_was_interrupted_is_finished_by_whoever_opens_the_authority(
    home: Path, agents: list[Agent], left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = home / "ca" / "private"
    rotation.request(directory)
    rounds(home, agents)
    age(directory)
    interrupted = RuntimeError("killed")

    def writes(path: Path, data: bytes, mode: int) -> None:
        write_file(path, data, mode)
        if path == directory / left:
            raise interrupted

    monkeypatch.setattr("security.identity.rotation.write_file", writes)
    with pytest.raises(RuntimeError, match="killed"):
        agents[1].round()
    monkeypatch.undo()
    following = (directory / "next" / "root.pem").read_bytes()
    authority = Authority.open_or_create(directory, TRUST_DOMAIN, "private")
    assert authority.root_pem == following
    rounds(home, [agents[0], Agent(home, authority, timedelta(hours=12), other_root_wait_s=30.0)])
