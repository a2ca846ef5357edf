"""An HTTP server that only the zone's gateway can talk to: TLS 1.3, a client certificate of the gateway's own issuer.

granian checks that a client's certificate chains to an authority but not whose it is. It is therefore given the
gateway's issuer as its only authority, which signs the gateway and nobody else.
"""

import asyncio
import os
import socket
import time
from pathlib import Path
from typing import Any

from granian._granian import SocketHolder
from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.http import HTTP1Settings, HTTP2Settings
from granian.server.embed import Server

from mesh.logs import logger
from mesh.tls import Identity, IdentityError, Leaf

log = logger("front")

START_S_MAX = 10.0
# Envoy refuses larger request heads before they come here.
HEAD_BYTES_MAX = 64 * 1024
HEAD_READ_TIMEOUT_MS = 10_000
STREAMS_MAX = 256
BACKLOG = 1024
# How many requests are worked on at a time; more wait in the kernel's queue.
CONCURRENT_MAX = 512


class OneSocketServer(Server):
    """granian's embedded server with one listening socket for the worker that goes and the worker that comes.

    granian would give each a socket of its own, and the kernel would reset the connections that wait in the queue of
    the one that is closed.
    """

    def _init_shared_socket(self) -> None:
        family = socket.AF_INET6 if ":" in self.bind_addr else socket.AF_INET
        self._socket = socket.socket(family)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it. Without it the first answer of each waits 40 ms for the acknowledgement of the session
        # tickets that TLS 1.3 sends before it (Nagle's algorithm meets a delayed acknowledgement).
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.bind((self.bind_addr, self.bind_port))
        self._socket.listen(self.backlog)
        self._socket.setblocking(False)

    def _spawn_worker(self, idx: int, target: Any, callback_loader: Any) -> Any:  # type: ignore[override]
        # A worker closes the descriptor that it was given.
        self._shd = SocketHolder(os.dup(self._socket.fileno()), False, self.backlog)  # type: ignore[call-arg, assignment]
        return super()._spawn_worker(idx, target, callback_loader)

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


class GatewayFront:
    """Serves `app` on `address` (host:port) for the gateway alone; a rotated leaf is picked up without a gap.

    `stopping` is set if the server ends by itself: half a process is worse than none.
    """

    def __init__(
        self,
        app: Any,
        address: str,
        identity: Identity,
        stopping: asyncio.Event,
        interface: Interfaces = Interfaces.ASGINL,
    ) -> None:
        host, port = address.rsplit(":", 1)
        self._address = (host, int(port))
        self._stopping = stopping
        self._task: asyncio.Task[None] | None = None
        directory = identity.leaf.directory
        self._server = OneSocketServer(
            app,
            address=host,
            port=int(port),
            interface=interface,
            http=HTTPModes.auto,
            websockets=False,
            log_enabled=False,
            backlog=BACKLOG,
            backpressure=CONCURRENT_MAX,
            http1_settings=HTTP1Settings(header_read_timeout=HEAD_READ_TIMEOUT_MS, max_buffer_size=HEAD_BYTES_MAX),
            http2_settings=HTTP2Settings(max_concurrent_streams=STREAMS_MAX, max_headers_size=HEAD_BYTES_MAX),
            ssl_cert=directory / "svid.pem",
            ssl_key=directory / "key.pem",
            ssl_protocol_min=SSLProtocols.tls13,
            ssl_ca=gateway_issuer(directory),
            ssl_client_verify=True,
        )
        identity.on_change(self._rotate)

    async def start(self) -> None:
        """Serve, and return once connections are accepted. OSError or RuntimeError if the server cannot start."""
        self._task = asyncio.create_task(self._server.serve(), name="front")
        self._task.add_done_callback(lambda _: self._stopping.set())
        deadline = time.monotonic() + START_S_MAX
        while not self._task.done() and time.monotonic() < deadline:
            try:
                _, writer = await asyncio.open_connection(*self._address)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return
        if self._task.done():
            self._task.result()
        raise RuntimeError(f"the HTTP server did not start on {self._address[0]}:{self._address[1]}")

    async def stop(self, grace_s: float) -> None:
        """Finish what is being answered, for at most `grace_s`."""
        if self._task is None:
            return
        self._server.stop()  # type: ignore[no-untyped-call]
        _, late = await asyncio.wait([self._task], timeout=grace_s)
        for task in late:
            task.cancel()
        self._server.close()

    def _rotate(self, leaf: Leaf) -> None:
        # A new worker with the new leaf listens beside the old one, which then finishes its connections.
        self._server.build_ssl_context(
            leaf.directory / "svid.pem",
            leaf.directory / "key.pem",
            None,
            SSLProtocols.tls13,
            gateway_issuer(leaf.directory),
            [],
            True,
        )
        self._server.reload()  # type: ignore[no-untyped-call]
        log.info("leaf_rotated", remaining_s=round(leaf.not_after - time.time()))


def gateway_issuer(directory: Path) -> Path:
    """The issuer of the zone's gateway, from an identity directory. IdentityError if this process has none."""
    path = directory / "gateway-ca.pem"
    if not path.exists():
        raise IdentityError(f"{path} is missing: the identity agent gives it to servers behind the gateway only")
    return path
