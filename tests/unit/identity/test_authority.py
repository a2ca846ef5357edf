"""The certificates of a zone: what is in them, who accepts them, who may read their keys."""

import stat
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from mesh.errors import FailedPrecondition
from security.identity.authority import Authority, Leaf

DAY = timedelta(days=1)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open_or_create(tmp_path / "ca" / "private", "isthmus.internal", "private")


def chain_of(leaf: Leaf) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(leaf.chain_pem)


def verify_as_server(leaf: Leaf, anchor_pem: bytes, name: x509.DNSName | x509.IPAddress) -> None:
    certificate, *intermediates = chain_of(leaf)
    store = Store([x509.load_pem_x509_certificate(anchor_pem)])
    PolicyBuilder().store(store).build_server_verifier(name).verify(certificate, intermediates)


def verify_as_client(leaf: Leaf, anchor_pem: bytes) -> list[x509.GeneralName]:
    certificate, *intermediates = chain_of(leaf)
    store = Store([x509.load_pem_x509_certificate(anchor_pem)])
    return list(PolicyBuilder().store(store).build_client_verifier().verify(certificate, intermediates).subjects or ())


def test_a_leaf_names_its_workload_in_every_form_a_peer_checks(authority: Authority) -> None:
    certificate = chain_of(authority.issue("orders", DAY))[0]
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://isthmus.internal/private/orders"]
    assert names.get_values_for_type(x509.DNSName) == ["orders.private.isthmus.internal", "localhost"]
    assert names.get_values_for_type(x509.IPAddress) == [IPv4Address("127.0.0.1")]
    assert certificate.subject.rfc4514_string() == "O=private,CN=orders"


def test_a_leaf_is_p256_signs_handshakes_and_is_no_authority(authority: Authority) -> None:
    certificate = chain_of(authority.issue("orders", DAY))[0]
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert not constraints.value.ca
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    assert not usage.value.crl_sign
    extended = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(extended) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}


def test_the_key_is_pkcs8_and_belongs_to_the_certificate(authority: Authority) -> None:
    leaf = authority.issue("kafka", DAY)
    assert leaf.key_pem.startswith(b"-----BEGIN PRIVATE KEY-----")
    key = serialization.load_pem_private_key(leaf.key_pem, password=None)
    assert key.public_key() == chain_of(leaf)[0].public_key()


def test_a_strict_verifier_accepts_a_leaf_as_server_and_as_client(authority: Authority) -> None:
    leaf = authority.issue("orders", DAY)
    verify_as_server(leaf, authority.root_pem, x509.DNSName("localhost"))
    verify_as_server(leaf, authority.root_pem, x509.IPAddress(IPv4Address("127.0.0.1")))
    assert x509.UniformResourceIdentifier("spiffe://isthmus.internal/private/orders") in verify_as_client(
        leaf, authority.root_pem
    )


def test_a_leaf_of_one_zone_is_refused_by_the_root_of_the_other(authority: Authority, tmp_path: Path) -> None:
    other = Authority.open_or_create(tmp_path / "ca" / "public", "isthmus.internal", "public")
    with pytest.raises(VerificationError):
        verify_as_client(authority.issue("orders", DAY), other.root_pem)


@pytest.mark.parametrize(("zone", "gateway"), [("public", "edge-gateway"), ("private", "core-gateway")])
def test_only_the_gateway_chains_to_the_gateway_issuer(tmp_path: Path, zone: str, gateway: str) -> None:
    authority = Authority.open_or_create(tmp_path / zone, "isthmus.internal", zone)
    leaf = authority.issue(gateway, DAY)
    assert len(chain_of(leaf)) == 2
    verify_as_client(leaf, authority.gateway_pem)
    verify_as_client(leaf, authority.root_pem)
    with pytest.raises(VerificationError):
        verify_as_client(authority.issue("edge", DAY), authority.gateway_pem)


def test_a_leaf_starts_a_little_early_and_ends_with_its_time(authority: Authority) -> None:
    leaf = authority.issue("orders", timedelta(hours=12))
    certificate, now = chain_of(leaf)[0], datetime.now(UTC)
    assert timedelta(0) < now - certificate.not_valid_before_utc <= timedelta(minutes=2)
    assert abs(leaf.not_after - now - timedelta(hours=12)) < timedelta(seconds=5)


@pytest.mark.parametrize("ttl", [timedelta(0), timedelta(seconds=-1), timedelta(days=2)])
def test_a_life_of_nothing_or_of_days_is_refused(authority: Authority, ttl: timedelta) -> None:
    with pytest.raises(FailedPrecondition):
        authority.issue("orders", ttl)


def test_the_root_lives_a_year(authority: Authority) -> None:
    root = x509.load_pem_x509_certificate(authority.root_pem)
    assert timedelta(days=364) < root.not_valid_after_utc - datetime.now(UTC) <= timedelta(days=366)


def test_opening_again_gives_the_same_root(authority: Authority, tmp_path: Path) -> None:
    again = Authority.open_or_create(tmp_path / "ca" / "private", "isthmus.internal", "private")
    assert (again.root_pem, again.gateway_pem) == (authority.root_pem, authority.gateway_pem)


def test_keys_are_closed_to_everyone_else(authority: Authority, tmp_path: Path) -> None:
    directory = tmp_path / "ca" / "private"
    for name in ("root.key", "gateway.key"):
        assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_key_that_others_may_have_read_is_refused(authority: Authority, tmp_path: Path, mode: int) -> None:
    (tmp_path / "ca" / "private" / "root.key").chmod(mode)
    with pytest.raises(FailedPrecondition, match=r"root\.key"):
        Authority.open_or_create(tmp_path / "ca" / "private", "isthmus.internal", "private")


def test_a_root_without_its_key_is_not_silently_replaced(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "ca" / "private" / "root.key").unlink()
    with pytest.raises(FailedPrecondition):
        Authority.open_or_create(tmp_path / "ca" / "private", "isthmus.internal", "private")


def test_a_key_of_another_root_is_refused(authority: Authority, tmp_path: Path) -> None:
    other = tmp_path / "other"
    Authority.open_or_create(other, "isthmus.internal", "private")
    (other / "root.key").replace(tmp_path / "ca" / "private" / "root.key")
    with pytest.raises(FailedPrecondition, match="not the key"):
        Authority.open_or_create(tmp_path / "ca" / "private", "isthmus.internal", "private")


def test_a_start_that_died_before_the_certificate_was_written_starts_anew(tmp_path: Path) -> None:
    Authority.open_or_create(tmp_path, "isthmus.internal", "private")
    (tmp_path / "root.pem").unlink()
    authority = Authority.open_or_create(tmp_path, "isthmus.internal", "private")
    # The gateway's issuer follows its root.
    verify_as_client(authority.issue("core-gateway", DAY), authority.root_pem)
