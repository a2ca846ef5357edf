"""The certificate authority of one zone: a root, a gateway issuer below it, and the leaves of both.

The leaf profile follows the X.509-SVID standard of SPIFFE (one URI name, not an authority, critical key usage) and
RFC 5280 section 4.2, so that strict verifiers accept it: authority and subject key ids, server and client use.
"""

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mesh.errors import FailedPrecondition
from mesh.files import (
    DIRECTORY_MODE,
    PRIVATE_MODE,
    PUBLIC_MODE,
    read_file,
    read_key_file,
    sync_directory,
    write_file,
)
from mesh.spiffe import SpiffeId
from security.identity import rotation

LOOPBACK = "127.0.0.1"
ROOT_LIFE = timedelta(days=365)
# A verifier whose clock is this far behind ours still accepts a new certificate.
CLOCK_SKEW = timedelta(seconds=60)
LEAF_LIFE_MAX = timedelta(days=1)

# The gateway of each zone. Its leaf comes from an issuer of its own, so that an HTTP server that can check a chain but
# not a name (granian) admits the gateway alone by trusting that issuer alone.
GATEWAYS = {"public": "edge-gateway", "private": "core-gateway"}


@dataclass(frozen=True)
class Leaf:
    """A certificate chain (leaf first, the root left out), its key and when it ends."""

    chain_pem: bytes
    key_pem: bytes
    serial: int
    not_after: datetime


@dataclass(frozen=True)
class Issuer:
    """A certificate that may sign others, with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


class Authority:
    """Signs the leaves of one zone. Its keys live in `directory`, mode 0600, and never leave it."""

    def __init__(self, directory: Path, trust_domain: str, zone: str, root: Issuer, gateway: Issuer) -> None:
        self._directory = directory
        self.trust_domain = trust_domain
        self.zone = zone
        self._root = root
        self._gateway = gateway

    @classmethod
    def open_or_create(cls, directory: Path, trust_domain: str, zone: str) -> Self:
        """Open the authority in `directory` (ISTHMUS_HOME/ca/<zone>), or make it there the first time.

        Fails on a key that others can read, on a certificate without its key and on a root that has ended.
        """
        directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        with _locked(directory):
            if rotation.due(directory) == "switch":
                # Perhaps begun by an agent that was killed: half a switch would be a key without its certificate.
                rotation.switch(directory)
            root = _open_or_create_issuer(directory, "root", f"Isthmus {zone} root", zone, None)
            gateway = _open_or_create_issuer(directory, "gateway", f"Isthmus {zone} gateway issuer", zone, root)
        return cls(directory, trust_domain, zone, root, gateway)

    def reopened(self) -> Self:
        """This authority if its root is still the one on disk, else the one that took its place."""
        try:
            if read_file(self._directory / "root.pem") == self.root_pem:
                return self
        except FileNotFoundError:
            pass
        return self.open_or_create(self._directory, self.trust_domain, self.zone)

    def rotated(self) -> Self:
        """This authority, or the one after the step of a rotation that was due (security.identity.rotation)."""
        match rotation.due(self._directory):
            case "introduce":
                self.open_or_create(self._directory / rotation.NEXT, self.trust_domain, self.zone)
                (self._directory / rotation.REQUEST).unlink(missing_ok=True)
            case "switch":
                return self.open_or_create(self._directory, self.trust_domain, self.zone)
            case "forget":
                rotation.forget(self._directory)
        return self

    @property
    def root_pem(self) -> bytes:
        return self._root.pem

    @property
    def gateway_pem(self) -> bytes:
        """What signs the zone's gateway and nothing else, to be trusted by those behind it; two during a rotation."""
        return rotation.known(self._directory, "gateway")

    @property
    def ends(self) -> datetime:
        """When the root ends, and with it every leaf."""
        return self._root.certificate.not_valid_after_utc

    def issuer_of(self, workload: str) -> Issuer:
        return self._gateway if workload == GATEWAYS.get(self.zone) else self._root

    def issue(self, workload: str, ttl: timedelta, addresses: Iterable[str] = ()) -> Leaf:
        """Issue a leaf with a new key for `workload`, valid for `ttl` from now but never beyond its issuer. `addresses`
        (IPv4) are where it listens, beside this machine's own."""
        if not timedelta(seconds=2) <= ttl <= LEAF_LIFE_MAX:
            raise FailedPrecondition("LEAF_LIFE", f"a leaf lives from 2 s to {LEAF_LIFE_MAX}, not {ttl}")
        issuer = self.issuer_of(workload)
        now = datetime.now(UTC)
        not_after = min(now + ttl, issuer.certificate.not_valid_after_utc)
        key = ec.generate_private_key(ec.SECP256R1())
        serial = x509.random_serial_number()
        names: list[x509.GeneralName] = [
            x509.UniformResourceIdentifier(str(SpiffeId(self.zone, workload, self.trust_domain))),
            x509.DNSName(f"{workload}.{self.zone}.{self.trust_domain}"),
            x509.DNSName("localhost"),
            *(x509.IPAddress(IPv4Address(one)) for one in sorted({LOOPBACK, *addresses})),
        ]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_name(workload, self.zone))
            .issuer_name(issuer.certificate.subject)
            .public_key(key.public_key())
            .serial_number(serial)
            .not_valid_before(now - CLOCK_SKEW)
            .not_valid_after(not_after)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(_authority_key_id(issuer.certificate), critical=False)
            .sign(issuer.key, hashes.SHA256())
        )
        chain = certificate.public_bytes(serialization.Encoding.PEM)
        if issuer is not self._root:
            chain += issuer.pem
        return Leaf(chain, _key_pem(key), serial, certificate.not_valid_after_utc)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Only one process at a time makes the keys of a zone."""
    descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT, PRIVATE_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _open_or_create_issuer(directory: Path, name: str, common_name: str, zone: str, parent: Issuer | None) -> Issuer:
    key_path, certificate_path = directory / f"{name}.key", directory / f"{name}.pem"
    if certificate_path.exists():
        issuer = _read_issuer(key_path, certificate_path)
        if parent is None or _signed_by(issuer.certificate, parent.certificate):
            return issuer
        # The root was replaced: an issuer below the old one would be refused by everyone who trusts the new one.
    # A key without its certificate is the rest of an interrupted start: nobody has seen a certificate of it.
    issuer = _new_issuer(common_name, zone, parent)
    write_file(key_path, _key_pem(issuer.key), PRIVATE_MODE)
    write_file(certificate_path, issuer.pem, PUBLIC_MODE)
    sync_directory(directory)
    return issuer


def _read_issuer(key_path: Path, certificate_path: Path) -> Issuer:
    if not key_path.exists():
        raise FailedPrecondition(
            "AUTHORITY_KEY_LOST",
            f"{certificate_path} is there but {key_path} is not",
            remedy=f"Put the key back, or remove {certificate_path} to start a new authority.",
        )
    try:
        key = serialization.load_pem_private_key(read_key_file(key_path), password=None)
        certificate = x509.load_pem_x509_certificate(read_file(certificate_path))
    except ValueError as error:
        raise FailedPrecondition("AUTHORITY_CORRUPT", f"cannot read {certificate_path} or its key: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise FailedPrecondition("AUTHORITY_CORRUPT", f"{key_path} is not the key of {certificate_path}")
    if certificate.not_valid_after_utc <= datetime.now(UTC):
        raise FailedPrecondition(
            "AUTHORITY_ENDED",
            f"{certificate_path} ended at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC",
            remedy=f"Remove {certificate_path} and its key to start a new authority.",
        )
    return Issuer(certificate, key)


def _new_issuer(common_name: str, zone: str, parent: Issuer | None) -> Issuer:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(common_name, zone)
    now = datetime.now(UTC)
    not_after = parent.certificate.not_valid_after_utc if parent else now + ROOT_LIFE
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(parent.certificate.subject if parent else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0 if parent else 1), critical=True)
        .add_extension(_key_usage(digital_signature=False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if parent:
        builder = builder.add_extension(_authority_key_id(parent.certificate), critical=False)
    signing = parent.key if parent else key
    return Issuer(builder.sign(signing, hashes.SHA256()), key)


def _signed_by(certificate: x509.Certificate, parent: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(parent)
    except Exception:  # InvalidSignature, ValueError and TypeError all mean no
        return False
    return True


def _name(common_name: str, zone: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, zone),
        ]
    )


def _key_usage(digital_signature: bool) -> x509.KeyUsage:
    """A leaf signs handshakes and nothing else; an issuer signs certificates and nothing else."""
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=not digital_signature,
        crl_sign=not digital_signature,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_key_id(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    ski = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ski.value)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    # PKCS#8 without a password: what Kafka's PEM keystore, Envoy, gRPC and rustls all read.
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
