"""The witness over HTTPS with both sides' certificates; the one caller is the log's own process.

The control plane of its zone may ask besides whether it is there.
"""

import ssl
from http import HTTPStatus
from typing import Final

from aiohttp import web

from mesh.logs import logger
from mesh.settings import HEALTH_PATH
from mesh.spiffe import SpiffeId
from mesh.tls import Identity, peer_of_socket
from security.audit.note import KeyMalformed
from security.witness.witness import Reply, Witness

PATH: Final = "/add-checkpoint"
BODY_BYTES_MAX: Final = 16 * 1024


class WitnessFront:
    """A service of the witness process."""

    def __init__(self, address: str, identity: Identity, caller: SpiffeId, witness: Witness) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._caller = caller
        own = identity.spiffe_id
        self._control = SpiffeId(own.zone, f"control-{own.zone}", own.trust_domain)
        self._witness = witness
        self._context = identity.ssl_context(server=True)
        identity.on_change(lambda _: identity.renew(self._context))
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.router.add_post(PATH, self._add_checkpoint)
        app.router.add_get(HEALTH_PATH, self._health)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        self._log = logger("witness")

    async def start(self) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port, ssl_context=self._context).start()

    async def stop(self, grace_s: float) -> None:
        await self._runner.cleanup()

    async def _health(self, request: web.Request) -> web.Response:
        known = _peer(request) == self._control
        return web.Response(status=HTTPStatus.OK if known else HTTPStatus.FORBIDDEN)

    async def _add_checkpoint(self, request: web.Request) -> web.Response:
        reply = await self._reply(request)
        return web.Response(status=reply.status, text=reply.body, content_type=reply.content_type)

    async def _reply(self, request: web.Request) -> Reply:
        if _peer(request) != self._caller:
            return Reply(HTTPStatus.FORBIDDEN, f"only {self._caller} may ask\n")
        try:
            body = (await request.read()).decode()
        except UnicodeDecodeError:
            return Reply(HTTPStatus.BAD_REQUEST, "the body is not UTF-8\n")
        try:
            return self._witness.add_checkpoint(body)
        except (OSError, KeyMalformed) as error:
            # What was not kept was not cosigned.
            self._log.error("nothing can be kept", error=str(error))
            return Reply(HTTPStatus.SERVICE_UNAVAILABLE, "nothing can be kept now\n")


def _peer(request: web.Request) -> SpiffeId | None:
    socket = request.transport.get_extra_info("ssl_object") if request.transport else None
    return peer_of_socket(socket.getpeercert()) if isinstance(socket, ssl.SSLObject) else None
