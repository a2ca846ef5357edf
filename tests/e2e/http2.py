"""The least of HTTP/2 (RFC 9113) that asks for a page: enough to see that it is served, and no library for it."""

import socket
import ssl
import struct
from urllib.parse import urlsplit

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADERS, _SETTINGS, _GOAWAY = 1, 4, 7
_END_STREAM, _END_HEADERS = 1, 4
# RFC 7541, appendix A: index of the static table to the status that it stands for.
_STATUS = {0x88: 200, 0x89: 204, 0x8A: 206, 0x8B: 304, 0x8C: 400, 0x8D: 404, 0x8E: 500}


def get_status(url: str, path: str) -> int:
    """GET `path` over HTTP/2 and TLS 1.3; returns the status, where it is one that HPACK has an index for."""
    address = urlsplit(url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((address.hostname or "", address.port or 443), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=address.hostname) as connection,
    ):
        assert connection.selected_alpn_protocol() == "h2"
        request = _literal(1, address.netloc) + b"\x82\x87" + _literal(4, path)
        connection.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, b""))
        connection.sendall(_frame(_HEADERS, _END_STREAM | _END_HEADERS, 1, request))
        stream = connection.makefile("rb")
        while True:
            length, kind = struct.unpack(">I", b"\x00" + stream.read(3))[0], stream.read(1)[0]
            stream.read(5)
            body = stream.read(length)
            assert kind != _GOAWAY, body
            if kind == _HEADERS:
                return _STATUS[body[0]]


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return struct.pack(">I", len(body))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + body


def _literal(name_index: int, value: str) -> bytes:
    """A header whose name is in the static table, not to be indexed (RFC 7541, section 6.2.2)."""
    assert len(value) < 127
    return bytes((name_index, len(value))) + value.encode()
