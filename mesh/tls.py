"""TLS 1.3 with both sides' certificates: the only transport of the mesh.

An identity is a folder that the zone's identity agent keeps: svid.pem (leaf and chain), key.pem (PKCS#8) and bundle.pem
(the roots that this workload trusts). The folder is a symbolic link that is swapped whole when the leaf rotates, so a
reader that resolves it once never sees a certificate with another's key.
"""

import asyncio
import contextlib
import functools
import os
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import grpc
from cryptography import x509

from mesh.environment import SUITES, TLS13_ONLY
from mesh.spiffe import SpiffeId

_POLL_S: Final = 1.0


class IdentityError(RuntimeError):
    """The process has no usable certificate."""


def require_tls13() -> None:
    """Raise IdentityError unless gRPC was loaded in an environment that leaves it TLS 1.3 alone."""
    if os.environ.get(SUITES) != TLS13_ONLY:
        raise IdentityError(f"gRPC would speak TLS 1.2: set {SUITES}={TLS13_ONLY} before the process starts")


@dataclass(frozen=True, slots=True)
class Leaf:
    """One issue of the identity, read as a whole. All PEM."""

    chain: bytes
    key: bytes
    bundle: bytes
    spiffe_id: SpiffeId
    # Seconds since the epoch.
    not_after: float
    directory: Path


class Identity:
    """The certificate that this process shows and the roots that it trusts, as they rotate."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._leaf = _read(directory)
        self._watchers: list[Callable[[Leaf], None]] = []

    @classmethod
    async def wait(cls, directory: Path, timeout_s: float = 30.0) -> "Identity":
        """The identity in `directory`, once the agent has issued it. Raises IdentityError when it does not come."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return cls(directory)
            except IdentityError:
                if time.monotonic() >= deadline:
                    raise
                await asyncio.sleep(0.1)

    @property
    def leaf(self) -> Leaf:
        """The newest leaf on disk. A half-written or missing one leaves the last good one in use."""
        if self.directory.resolve() != self._leaf.directory:
            with contextlib.suppress(IdentityError):
                self._leaf = _read(self.directory)
        return self._leaf

    @property
    def spiffe_id(self) -> SpiffeId:
        return self._leaf.spiffe_id

    def remaining_s(self) -> float:
        """Seconds until the leaf expires; negative when it has."""
        return self.leaf.not_after - time.time()

    def server_credentials(self) -> grpc.ServerCredentials:
        """Credentials that demand a client certificate and pick up a rotated leaf at the next handshake."""
        require_tls13()
        served = self.leaf

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            nonlocal served
            leaf = self.leaf
            if leaf is served:
                return None
            served = leaf
            return _server_configuration(leaf)

        # None means "as before", which the stubs do not know.
        fetcher = cast(Callable[[], grpc.ServerCertificateConfiguration], fetch)
        return grpc.dynamic_ssl_server_credentials(_server_configuration(served), fetcher, True)

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Credentials for one channel, with the leaf of now: a channel that outlives the leaf must be opened anew."""
        require_tls13()
        leaf = self.leaf
        return grpc.ssl_channel_credentials(leaf.bundle, leaf.key, leaf.chain)

    def ssl_context(self, *, server: bool) -> ssl.SSLContext:
        """A context for servers and clients that are not gRPC: TLS 1.3 and a certificate from the other side.

        Register `renew` with `on_change` to keep a long-lived context current.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        self.renew(context)
        return context

    def renew(self, context: ssl.SSLContext) -> None:
        """Load the newest leaf and bundle into `context`; connections already open keep theirs."""
        directory = self.leaf.directory
        context.load_cert_chain(directory / "svid.pem", directory / "key.pem")
        context.load_verify_locations(directory / "bundle.pem")

    def on_change(self, callback: Callable[[Leaf], None]) -> None:
        """Call `callback` from the event loop after each rotation, as long as `watch` runs."""
        self._watchers.append(callback)

    async def watch(self) -> None:
        """Look for a new leaf each second, for ever. One task of the process runs this."""
        seen = self._leaf
        while True:
            await asyncio.sleep(_POLL_S)
            leaf = self.leaf
            if leaf is not seen:
                seen = leaf
                for callback in self._watchers:
                    callback(leaf)


def peer_of(auth_context: Mapping[str, Iterable[bytes]]) -> SpiffeId | None:
    """The SPIFFE id in a gRPC peer's verified certificate; None when it has none or several (X.509-SVID, section 2)."""
    found = [name for name in auth_context.get("x509_subject_alternative_name", ()) if name.startswith(b"spiffe://")]
    return _parsed(found[0]) if len(found) == 1 else None


def peer_of_call(context: grpc.aio.ServicerContext[Any, Any]) -> SpiffeId | None:
    """The same for the peer of a call, of whose certificate nothing else is asked for: it would be copied each time."""
    return _named(context.peer_identity_key(), tuple(context.peer_identities() or ()))


@functools.lru_cache(maxsize=1024)
def _named(key: str | None, names: tuple[bytes, ...]) -> SpiffeId | None:
    # Kept, since the same few peers call again and again.
    return peer_of({key or "": names})


def _parsed(name: bytes) -> SpiffeId | None:
    try:
        return SpiffeId.parse(name.decode())
    except ValueError:
        return None


def peer_of_socket(certificate: Mapping[str, object] | None) -> SpiffeId | None:
    """The same for `ssl.SSLSocket.getpeercert()`."""
    names = (certificate or {}).get("subjectAltName", ())
    uris = [value.encode() for kind, value in names if kind == "URI"]  # type: ignore[attr-defined]
    return peer_of({"x509_subject_alternative_name": uris})


def _server_configuration(leaf: Leaf) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(leaf.key, leaf.chain)], leaf.bundle)


def _read(link: Path) -> Leaf:
    directory = link.resolve()
    try:
        chain, key, bundle = ((directory / name).read_bytes() for name in ("svid.pem", "key.pem", "bundle.pem"))
        certificate = x509.load_pem_x509_certificate(chain)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        spiffe_id = SpiffeId.parse(uris[0])
    except (OSError, ValueError, IndexError, x509.ExtensionNotFound) as error:
        raise IdentityError(f"no usable identity in {link}: {error}; is the zone's identity agent running?") from error
    return Leaf(chain, key, bundle, spiffe_id, certificate.not_valid_after_utc.timestamp(), directory)
