"""The HTTPS front in this process and on its event loop: granian's embedded server, RSGI, mutual TLS 1.3.

A rotated certificate needs a new worker, because granian reads it when a worker starts. Both workers accept from one
listening socket; the old one then stops accepting, finishes what it has, and asks its connections to close.

Granian hands each request to Python in a thread of its own, and its scheduler sends it on to the event loop. Ours
answers there what needs no loop, and saves a task, two wake-ups and a turn of the loop (docs/adr/0010).
"""

import asyncio
import logging
from pathlib import Path
from typing import Any

from granian._futures import _cbsched_aioschedule, _future_watcher_wrapper
from granian._granian import CallbackScheduler, RSGIWorker
from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.http import HTTP1Settings, HTTP2Settings
from granian.server.embed import AsyncWorker

from public_edge.http.app import EdgeApp
from security.identity.front import OneSocketServer

HEADER_BYTES_MAX = 32 << 10
STREAMS_MAX = 256
OVERLAP_S = 0.05
SETTLE_S = 0.5
_LOG = {
    "version": 1,
    "disable_existing_loggers": False,
    "loggers": {"_granian": {"level": "WARNING"}, "granian.access": {"level": "WARNING"}},
}


class _Scheduler(CallbackScheduler):
    """Answers a request where it arrives, or else as a task of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, later: Any, *_: Any) -> None:
        super().__init__()
        answer_at_once = later.app.answer_at_once
        on_the_loop = _cbsched_aioschedule(loop, self._ctx, later)  # type: ignore[no-untyped-call]

        def schedule(watcher: Any) -> None:
            if answer_at_once(watcher.scope, watcher.proto):
                watcher.done()
            else:
                on_the_loop(watcher)

        self._schedule_fn = schedule


@AsyncWorker.wrap_target  # type: ignore[untyped-decorator]
async def _serve(
    worker_id: int, stop: Any, app: EdgeApp, sock: Any, loop: asyncio.AbstractEventLoop, *options: Any
) -> None:
    """What granian's own RSGI worker does, with our scheduler. options: as granian orders them for its workers."""
    *threads, backpressure, _task_impl, mode, http1, http2, websockets, static, _access_log, tls, _scope = options
    stopped = loop.create_future()
    stop.add_cb(lambda: loop.call_soon_threadsafe(stopped.set_result, None))
    worker: Any = RSGIWorker(
        *(worker_id, sock, None, *threads, backpressure, mode, http1, http2, websockets, static, *tls, (None, None))
    )
    later = _future_watcher_wrapper(app.__rsgi__)  # type: ignore[no-untyped-call]
    later.app = app
    worker.serve_async(_Scheduler(loop, later, None, None, None), loop, stop)
    await stopped


class _Listener(OneSocketServer):
    """With our worker in the place of granian's."""

    def _spawn_worker(self, idx: int, target: Any, callback_loader: Any) -> Any:  # type: ignore[override]
        return super()._spawn_worker(idx, _serve, callback_loader)

    async def replace_worker(self, app: EdgeApp) -> None:
        await self._respawn_workers([0], _serve, app, OVERLAP_S)


class HttpServer:
    """identity: the folder as it rotates, with svid.pem, key.pem and `ca_name`, whose holders alone may connect."""

    def __init__(self, app: EdgeApp, address: str, identity: Path, ca_name: str = "gateway-ca.pem") -> None:
        self._app = app
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._identity = identity
        self._ca_name = ca_name
        self._server: _Listener | None = None
        self._task: asyncio.Task[None] | None = None
        self._renewing = asyncio.Lock()
        self._renewals: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        live = self._identity.resolve()
        self._server = _Listener(
            self._app,
            self._host,
            self._port,
            interface=Interfaces.RSGI,
            http=HTTPModes.auto,
            websockets=False,
            backlog=1024,
            http1_settings=HTTP1Settings(header_read_timeout=10_000, max_buffer_size=HEADER_BYTES_MAX),
            http2_settings=HTTP2Settings(max_concurrent_streams=STREAMS_MAX, max_headers_size=HEADER_BYTES_MAX),
            log_dictconfig=_LOG,
            ssl_cert=live / "svid.pem",
            ssl_key=live / "key.pem",
            ssl_protocol_min=SSLProtocols.tls13,
            ssl_ca=live / self._ca_name,
            ssl_client_verify=True,
        )
        self._server.workers_kill_timeout = 5
        logging.getLogger("_granian").setLevel(logging.WARNING)
        self._task = asyncio.create_task(self._server.serve(), name="http")
        await asyncio.sleep(0)
        if self._task.done():
            await self._task

    def renew(self) -> None:
        """Serve with the newest certificate from now on."""
        task = asyncio.get_running_loop().create_task(self.renewed(), name="http-renew")
        self._renewals.add(task)
        task.add_done_callback(self._renewals.discard)

    async def renewed(self) -> None:
        """Return when every new connection is shown the newest certificate.

        The old worker ends its idle connections. A request that is sent into one at that very moment is not answered,
        as ever when a server closes (RFC 9112, section 9.3.1); the gateway repeats it on another connection.
        """
        async with self._renewing:
            server = self._server
            if server is None or not server.wrks:
                return
            live = self._identity.resolve()
            server.build_ssl_context(
                live / "svid.pem", live / "key.pem", None, SSLProtocols.tls13, live / self._ca_name, [], True
            )
            await server.replace_worker(self._app)

    async def stop(self, grace_s: float) -> None:
        """Stop accepting, finish what is under way."""
        if self._server is None or self._task is None:
            return
        # The gateway first learns that this node is going (its health has said so), then it is closed to new requests.
        await asyncio.sleep(min(SETTLE_S, grace_s / 4))
        self._server.signal_handler_interrupt()  # type: ignore[no-untyped-call]
        try:
            await asyncio.wait_for(asyncio.shield(self._task), max(0.1, grace_s - SETTLE_S))
        except TimeoutError:
            self._task.cancel()
        finally:
            self._server.close()
