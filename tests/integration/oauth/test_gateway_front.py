"""The HTTP front of a process: for the gateway alone, TLS 1.3 alone, and never away while its leaf is replaced."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from granian.constants import Interfaces
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from mesh.tls import Identity
from security.identity import wallet
from security.identity.authority import Authority
from security.identity.front import GatewayFront, OneSocketServer
from tests.ports import free_port

LIFE = timedelta(hours=1)


@dataclass
class Front:
    home: Path
    port: int
    authority: Authority
    stopping: asyncio.Event

    def issue(self, workload: str) -> Path:
        directory = self.home / workload
        leaf = self.authority.issue(workload, LIFE)
        wallet.write(directory, wallet.Wallet(leaf, self.authority.root_pem, self.authority.gateway_pem))
        return directory / "live"

    async def connect(
        self, peer: str, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = ssl.create_default_context(cafile=str(self.home / "ca" / "root.pem"))
        context.minimum_version = context.maximum_version = version
        directory = (self.home / peer / "live").resolve()
        context.load_cert_chain(directory / "svid.pem", directory / "key.pem")
        for last in (False, True):
            try:
                return await asyncio.open_connection("127.0.0.1", self.port, ssl=context)
            except ConnectionResetError:
                # A worker that goes ends the handshakes it is in. Nothing was asked yet: a gateway connects again.
                if last:
                    raise
        raise AssertionError("unreachable")

    async def get(self, peer: str, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> tuple[str, int]:
        """Status line of one request on a connection of its own, and the serial of the certificate it met."""
        reader, writer = await self.connect(peer, version)
        try:
            tls = writer.get_extra_info("ssl_object")
            serial = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True)).serial_number
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            line = await reader.readline()
            if not line:
                raise ConnectionResetError
            return line.decode().strip(), serial
        finally:
            writer.close()


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    authority = Authority.open_or_create(tmp_path / "ca", "isthmus.internal", "private")
    made = Front(tmp_path, free_port(), authority, asyncio.Event())
    identity = Identity(made.issue("oauth"))
    for peer in ("core-gateway", "orders"):
        made.issue(peer)
    app = Starlette(routes=[Route("/", lambda _: PlainTextResponse("hello"))])
    server = GatewayFront(app, f"127.0.0.1:{made.port}", identity, made.stopping)
    await server.start()
    watch = asyncio.create_task(identity.watch())
    yield made
    watch.cancel()
    await server.stop(5.0)


async def test_the_gateway_is_served(front: Front) -> None:
    assert (await front.get("core-gateway"))[0] == "HTTP/1.1 200 OK"


async def test_any_other_workload_of_the_zone_is_not(front: Front) -> None:
    with pytest.raises((OSError, ssl.SSLError)):
        await front.get("orders")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
async def test_an_older_tls_is_refused(front: Front) -> None:
    with pytest.raises((OSError, ssl.SSLError)):
        await front.get("core-gateway", ssl.TLSVersion.TLSv1_2)


async def test_each_rotated_leaf_is_shown_without_a_failed_request(front: Front) -> None:
    serials = [(await front.get("core-gateway"))[1]]
    # More than once, with a connection that outlives its worker's turn: the socket must outlive each that goes.
    kept = [await front.connect("core-gateway")]
    for _ in range(3):
        before = serials[-1]
        front.issue("oauth")
        async with asyncio.timeout(30):
            while serials[-1] == before or serials.count(serials[-1]) < 20:
                status, serial = await front.get("core-gateway")
                assert status == "HTTP/1.1 200 OK"
                serials.append(serial)
                await asyncio.sleep(0.01)
        kept.pop()[1].close()
        kept.append(await front.connect("core-gateway"))
    kept.pop()[1].close()
    assert not front.stopping.is_set()


def test_no_answer_waits_until_what_was_sent_before_it_is_acknowledged() -> None:
    server = OneSocketServer(object(), address="127.0.0.1", port=free_port(), interface=Interfaces.RSGI)
    server._init_shared_socket()
    with server._socket, socket.create_connection(server._socket.getsockname()):
        accepted, _ = server._socket.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
