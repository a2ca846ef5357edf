"""Whose certificate a process shows that cannot be believed: named, so that somebody can mend it.

A handshake that fails says only that it did. So the port is looked at once more, without trust: no certificate of our
own is shown there, nothing is asked, and nothing that is seen decides anything.
"""

import asyncio
import ssl
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from mesh.spiffe import SpiffeId
from mesh.tls import Identity

# A stranger writes what it likes into its certificate.
_CHARACTERS_MAX: Final = 200


async def shown(address: str, identity: Identity, expected: SpiffeId, within_s: float) -> str:
    """What is wrong with the certificate that is shown at an address, for the log. "" for nothing, or if none is."""
    host, port = address.rsplit(":", 1)
    try:
        async with asyncio.timeout(within_s):
            _, writer = await asyncio.open_connection(
                host, int(port), ssl=_trusting_nobody(), server_hostname=expected.dns_name
            )
    except OSError:
        # Nobody is there, nobody speaks TLS 1.3, or nobody speaks at all.
        return ""
    encoded = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    try:
        certificate = x509.load_der_x509_certificate(encoded)
        roots = x509.load_pem_x509_certificates(identity.leaf.bundle)
        return "; ".join(_wrong(certificate, roots, expected))
    except (ValueError, TypeError, x509.DuplicateExtension):
        return "a certificate that cannot be read"


def _trusting_nobody() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    # gRPC hangs up on who offers no protocol.
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def _wrong(certificate: x509.Certificate, roots: Sequence[x509.Certificate], expected: SpiffeId) -> Iterator[str]:
    names = _spiffe_ids(certificate)
    if names != [expected.uri]:
        yield f"it is of {', '.join(names)[:_CHARACTERS_MAX] or 'nobody of the mesh'}"
    if not any(_issued_by(certificate, root) for root in roots):
        issuer = certificate.issuer.rfc4514_string()[:_CHARACTERS_MAX]
        yield f"issued by {issuer or 'somebody'}, whom this zone does not trust"
    if certificate.not_valid_after_utc < datetime.now(UTC):
        yield f"expired at {certificate.not_valid_after_utc.isoformat()}"


def _spiffe_ids(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def _issued_by(certificate: x509.Certificate, root: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
