"""The agent: every process of the zone always finds a good leaf, its key and the roots it trusts."""

import json
import stat
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from mesh.errors import FailedPrecondition
from security.identity import wallet
from security.identity.agent import Agent
from security.identity.authority import Authority
from security.identity.bundle import trusted_zones
from security.identity.topology import Holder, holders

TRUST_DOMAIN = "isthmus.internal"
TTL = timedelta(hours=12)


def row(name: str, zone: str, workload: str) -> dict[str, object]:
    return {"name": name, "zone": zone, "workload": workload, "node": name, "pid": None, "listens": []}


def write_topology(home: Path, *rows: dict[str, object]) -> None:
    (home / "topology.json").write_text(json.dumps({"trust_domain": TRUST_DOMAIN, "processes": rows}))


def authority_of(home: Path, zone: str) -> Authority:
    return Authority.open_or_create(home / "ca" / zone, TRUST_DOMAIN, zone)


def agent_of(home: Path, zone: str, ttl: timedelta = TTL) -> Agent:
    return Agent(home, authority_of(home, zone), ttl, other_root_wait_s=30.0)


def live(home: Path, process: str) -> Path:
    return home / "run" / process / "identity" / "live"


def certificates(path: Path) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(path.read_bytes())


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_topology(
        tmp_path,
        row("orders-1", "private", "orders"),
        row("oauth-1", "private", "oauth"),
        row("core-gateway", "private", "core-gateway"),
        row("edge-1", "public", "edge"),
        row("kafka", "public", "kafka"),
    )
    return tmp_path


def test_every_process_of_the_zone_and_no_other_gets_a_leaf(home: Path) -> None:
    authority_of(home, "public")
    assert agent_of(home, "private").round() == 4
    assert sorted(path.name for path in (home / "run").iterdir()) == ["core-gateway", "oauth-1", "operator", "orders-1"]


def test_the_key_pair_is_the_key_and_the_chain_together(home: Path) -> None:
    agent_of(home, "public").round()
    directory = live(home, "edge-1")
    pair = (directory / "key.pem").read_bytes() + (directory / "svid.pem").read_bytes()
    assert (directory / "keypair.pem").read_bytes() == pair


def test_files_with_keys_are_closed_to_everyone_else(home: Path) -> None:
    agent_of(home, "public").round()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in live(home, "edge-1").resolve().iterdir()}
    assert modes["key.pem"] == modes["keypair.pem"] == 0o600
    assert stat.S_IMODE(live(home, "edge-1").resolve().stat().st_mode) == 0o700


def test_a_good_leaf_is_left_alone_even_by_a_new_agent(home: Path) -> None:
    authority_of(home, "private")
    agent = agent_of(home, "public")
    assert agent.round() == 3
    assert agent.round() == 0
    assert agent_of(home, "public").round() == 0


def test_a_leaf_is_replaced_at_half_of_its_life(home: Path) -> None:
    authority_of(home, "private")
    agent_of(home, "public", timedelta(hours=4)).round()
    before = live(home, "edge-1").resolve()
    # With leaves of twelve hours, one with four left is past its half.
    assert agent_of(home, "public").round() == 3
    assert live(home, "edge-1").resolve() != before


def test_a_leaf_that_outlives_what_is_now_allowed_is_replaced(home: Path) -> None:
    authority_of(home, "private")
    agent_of(home, "public").round()
    assert agent_of(home, "public", timedelta(minutes=1)).round() == 3


def test_only_the_last_two_versions_are_kept(home: Path) -> None:
    for minutes in (60, 20, 5, 1):
        agent_of(home, "public", timedelta(minutes=minutes)).round()
    directory = home / "run" / "edge-1" / "identity"
    assert len([entry for entry in directory.iterdir() if not entry.is_symlink()]) == 2
    assert live(home, "edge-1").resolve(strict=True).parent == directory


@pytest.mark.parametrize("name", ["svid.pem", "key.pem", "keypair.pem", "bundle.pem"])
@pytest.mark.parametrize("damage", ["truncated", "removed", "of another process"])
def test_a_damaged_identity_is_replaced(home: Path, name: str, damage: str) -> None:
    authority_of(home, "private")
    agent = agent_of(home, "public")
    agent.round()
    victim = live(home, "edge-1").resolve() / name
    if damage == "truncated":
        victim.write_bytes(victim.read_bytes()[:100])
    elif damage == "removed":
        victim.unlink()
    else:
        victim.write_bytes((live(home, "kafka").resolve() / name).read_bytes())
    assert agent.round() == 1
    leaf = certificates(live(home, "edge-1") / "svid.pem")[0]
    key = serialization.load_pem_private_key((live(home, "edge-1") / "key.pem").read_bytes(), password=None)
    assert leaf.public_key() == key.public_key()


def test_a_key_that_others_may_have_read_is_replaced(home: Path) -> None:
    agent = agent_of(home, "public")
    agent.round()
    (live(home, "edge-1").resolve() / "key.pem").chmod(0o644)
    assert agent.round() == 1


def test_everyone_gets_a_new_leaf_when_the_root_is_replaced(home: Path) -> None:
    authority_of(home, "private")
    agent = agent_of(home, "public")
    agent.round()
    for name in ("root.pem", "root.key"):
        (home / "ca" / "public" / name).unlink()
    assert agent.round() == 3
    assert (live(home, "edge-1") / "bundle.pem").read_bytes() == (home / "ca" / "public" / "root.pem").read_bytes()


def test_where_the_zones_meet_both_roots_are_trusted_and_nowhere_else(home: Path) -> None:
    authority_of(home, "public")
    agent_of(home, "private").round()
    agent_of(home, "public").round()
    assert len(certificates(live(home, "core-gateway") / "bundle.pem")) == 2
    assert len(certificates(live(home, "kafka") / "bundle.pem")) == 2
    assert len(certificates(live(home, "orders-1") / "bundle.pem")) == 1
    assert len(certificates(live(home, "edge-1") / "bundle.pem")) == 1
    assert trusted_zones("bridge-inbound", "private") == ("private", "public")


def test_a_bundle_waits_for_the_other_zone_but_nobody_waits_with_it(home: Path) -> None:
    agent = agent_of(home, "public")
    assert agent.round() == 2
    assert not live(home, "kafka").exists()
    authority_of(home, "private")
    assert agent.round() == 1
    assert live(home, "kafka").exists()


def test_http_servers_behind_a_gateway_are_told_its_issuer(home: Path) -> None:
    authority_of(home, "public")
    agent_of(home, "private").round()
    agent_of(home, "public").round()
    for process, zone in (("edge-1", "public"), ("oauth-1", "private")):
        anchor = (live(home, process) / "gateway-ca.pem").read_bytes()
        assert anchor == authority_of(home, zone).gateway_pem
    assert not (live(home, "orders-1") / "gateway-ca.pem").exists()


def test_a_reader_who_resolves_once_never_sees_a_certificate_without_its_key(tmp_path: Path) -> None:
    authority = authority_of(tmp_path, "public")
    directory = tmp_path / "run" / "edge-1" / "identity"
    wallet.write(directory, wallet.Wallet(authority.issue("edge", TTL), authority.root_pem))
    stopped = threading.Event()

    def rotate() -> None:
        for _ in range(40):
            wallet.write(directory, wallet.Wallet(authority.issue("edge", TTL), authority.root_pem))
        stopped.set()

    rotation = threading.Thread(target=rotate)
    rotation.start()
    read = 0
    while not stopped.is_set() or read == 0:
        version = (directory / "live").resolve(strict=True)
        try:
            leaf = certificates(version / "svid.pem")[0]
            key = serialization.load_pem_private_key((version / "key.pem").read_bytes(), password=None)
        except FileNotFoundError:
            continue  # two swaps passed between two reads: the reader resolves again
        assert leaf.public_key() == key.public_key()
        read += 1
    rotation.join()
    assert read > 0


@pytest.mark.parametrize("name", ["../../etc", "", "a/b", "A", "x" * 64, 7, None])
def test_a_process_name_cannot_leave_its_directory(tmp_path: Path, name: object) -> None:
    write_topology(tmp_path, row("edge-1", "public", "edge") | {"name": name})
    with pytest.raises(FailedPrecondition):
        holders(tmp_path, "public")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"processes": 3}', '{"processes": [{}]}', '{"processes": ["x"]}'])
def test_a_malformed_process_table_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "topology.json").write_text(text)
    with pytest.raises(FailedPrecondition):
        holders(tmp_path, "public")


def test_without_a_process_table_only_the_operator_is_served(tmp_path: Path) -> None:
    assert holders(tmp_path, "private") == {Holder("operator", "operator")}
    assert holders(tmp_path, "public") == {Holder("operator-public", "operator")}
