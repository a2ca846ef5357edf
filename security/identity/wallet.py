"""The identity directory of one process: versions side by side, and `live`, a link that is swapped in one step.

A reader who resolves `live` once and reads every file from there always sees a certificate and its own key. The version
before the live one is kept for the reader who resolved the link just before the swap.
"""

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

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
from security.identity.authority import Issuer, Leaf

LIVE = "live"
VERSIONS_KEPT = 2
VERSIONS_MAX = 1000

Fingerprint = tuple[tuple[str, int, int, int, int], ...]


@dataclass(frozen=True)
class Wallet:
    """What a process is given: its leaf, the roots it trusts, and the gateway's issuer if it serves behind one."""

    leaf: Leaf
    bundle_pem: bytes
    gateway_pem: bytes | None = None

    def files(self) -> Mapping[str, tuple[bytes, int]]:
        files = {
            "key.pem": (self.leaf.key_pem, PRIVATE_MODE),
            "keypair.pem": (self.leaf.key_pem + self.leaf.chain_pem, PRIVATE_MODE),
            "svid.pem": (self.leaf.chain_pem, PUBLIC_MODE),
            "bundle.pem": (self.bundle_pem, PUBLIC_MODE),
        }
        if self.gateway_pem is not None:
            files["gateway-ca.pem"] = (self.gateway_pem, PUBLIC_MODE)
        return files


def write(directory: Path, wallet: Wallet) -> Path:
    """Write `wallet` as a new version in `directory` (run/<process>/identity) and make it live; returns the version."""
    directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    version = directory / f"{wallet.leaf.serial:040x}"
    version.mkdir(mode=DIRECTORY_MODE)
    for name, (data, mode) in wallet.files().items():
        write_file(version / name, data, mode)
    sync_directory(directory)
    make_live(directory, version)
    _drop_old_versions(directory, version)
    return version


def make_live(directory: Path, version: Path) -> None:
    """Let readers find one of the versions from now on."""
    draft = directory / f".{LIVE}.{os.getpid()}"
    draft.unlink(missing_ok=True)
    draft.symlink_to(version.name)
    draft.replace(directory / LIVE)
    sync_directory(directory)


def _drop_old_versions(directory: Path, live: Path) -> None:
    versions = [entry for entry in directory.iterdir() if entry.is_dir() and not entry.is_symlink() and entry != live]
    versions.sort(key=lambda entry: entry.stat().st_mtime_ns, reverse=True)
    for version in versions[VERSIONS_KEPT - 1 :][:VERSIONS_MAX]:
        shutil.rmtree(version, ignore_errors=True)


def fingerprint(directory: Path) -> Fingerprint | None:
    """Cheap evidence that no file of the live version changed since it was checked; None without a live version."""
    try:
        live = (directory / LIVE).resolve(strict=True)
        entries = sorted(live.iterdir())
        stats = [(str(entry), entry.stat()) for entry in entries]
    except OSError:
        return None
    return tuple((name, stat.st_ino, stat.st_mtime_ns, stat.st_size, stat.st_mode) for name, stat in stats)


def fault(
    directory: Path,
    issuer: Issuer,
    spiffe_id: str,
    bundle_pem: bytes,
    gateway_pem: bytes | None,
    addresses: Iterable[str] = (),
) -> str:
    """Why the live version cannot be used any more, or an empty string if it can (but for its age)."""
    try:
        live = (directory / LIVE).resolve(strict=True)
        chain_pem, key_pem = read_file(live / "svid.pem"), read_key_file(live / "key.pem")
        chain = x509.load_pem_x509_certificates(chain_pem)
        key = serialization.load_pem_private_key(key_pem, password=None)
        if chain[0].public_key() != key.public_key():
            return "the key is not the certificate's"
        if read_key_file(live / "keypair.pem") != key_pem + chain_pem:
            return "the key pair differs from the key and the chain"
        if read_file(live / "bundle.pem") != bundle_pem:
            return "the roots changed"
        if gateway_pem is not None and read_file(live / "gateway-ca.pem") != gateway_pem:
            return "the gateway's issuer changed"
        names = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if names.get_values_for_type(x509.UniformResourceIdentifier) != [spiffe_id]:
            return "it names another workload"
        if not {*addresses}.issubset(map(str, names.get_values_for_type(x509.IPAddress))):
            return "it does not name where the process listens"
        chain[0].verify_directly_issued_by(issuer.certificate)
    except FileNotFoundError:
        return "there is none yet"
    except FailedPrecondition as error:
        return error.message
    except Exception as error:  # whatever a damaged file makes a parser raise, the answer is a new leaf
        return f"it cannot be used: {type(error).__name__}"
    return ""


def not_after(directory: Path) -> datetime:
    """When the live leaf ends."""
    return x509.load_pem_x509_certificate(read_file(directory / LIVE / "svid.pem")).not_valid_after_utc


def due(end: datetime, now: datetime, ttl: timedelta) -> bool:
    """Whether to replace a leaf ending at `end`: half of its life is over, or it outlives what is now allowed."""
    return not ttl / 2 < end - now <= ttl + timedelta(seconds=1)
