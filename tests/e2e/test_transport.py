"""Every port of every process speaks TLS 1.3 and nothing older, and all but the public's ask who is there."""

import asyncio
import socket
import ssl
from typing import Any

import psutil
import pytest

from deploy.local.mesh import LocalMesh
from tests.e2e.command import status
from tests.e2e.http2 import get_status

pytestmark = pytest.mark.asyncio(loop_scope="session")
PUBLIC_PORT = "edge-gateway"


async def listens(mesh: LocalMesh) -> list[tuple[str, dict[str, Any]]]:
    """Every port that the status command lists, with its process."""
    report = await status(mesh)
    return [(process["name"], listen) for process in report["processes"] for listen in process["listens"]]


def serves(listen: dict[str, Any], version: ssl.TLSVersion) -> bool:
    """Whether the port speaks this version of TLS with a client that shows no certificate.

    In TLS 1.3 a client learns only after the handshake that its certificate was missed, so it sends what begins HTTP/2
    and looks whether a byte comes back.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    plain = socket.create_connection((listen["address"], listen["port"]), timeout=5)
    try:
        with context.wrap_socket(plain) as connection:
            connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
            return bool(connection.recv(1))
    except (ssl.SSLError, ConnectionError):
        return False
    finally:
        plain.close()


def listening_ports(mesh: LocalMesh) -> set[int]:
    """TCP ports that the mesh's processes and their children really listen on."""
    pids = [child.pid for child in mesh.processes.values() if child.pid is not None]
    family = [process for pid in pids for process in (psutil.Process(pid), *psutil.Process(pid).children(True))]
    sockets = [socket for process in family for socket in process.net_connections("tcp")]
    return {one.laddr.port for one in sockets if one.status == psutil.CONN_LISTEN}


async def test_every_process_that_serves_is_listed_with_its_ports(mesh: LocalMesh) -> None:
    names = {name for name, _ in await listens(mesh)}
    assert {"edge-gateway", "core-gateway", "kafka", "edge-1", "edge-2", "orders-1", "orders-2"} <= names
    assert all(listen["tls"] == "1.3" for _, listen in await listens(mesh))


async def test_no_port_speaks_tls_1_2(mesh: LocalMesh) -> None:
    for name, listen in await listens(mesh):
        served = await asyncio.to_thread(serves, listen, ssl.TLSVersion.TLSv1_2)
        assert not served, f"{name} takes TLS 1.2 on port {listen['port']}"


async def test_no_port_but_the_publics_serves_a_stranger(mesh: LocalMesh) -> None:
    for name, listen in await listens(mesh):
        served = await asyncio.to_thread(serves, listen, ssl.TLSVersion.TLSv1_3)
        assert served == (name == PUBLIC_PORT and listen["name"] == "https"), (name, listen)
        assert served != listen["client_cert"], (name, listen)


async def test_no_process_listens_on_a_port_that_is_not_listed(mesh: LocalMesh) -> None:
    listed = {listen["port"] for _, listen in await listens(mesh)}
    assert listening_ports(mesh) <= listed


async def test_the_public_is_served_over_http_2(mesh: LocalMesh) -> None:
    assert await asyncio.to_thread(get_status, mesh.urls["edge_gateway"], "/oauth/jwks.json") == 200
    assert await asyncio.to_thread(get_status, mesh.urls["edge_gateway"], "/nowhere") == 404
