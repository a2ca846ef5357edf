"""A private service that does nothing, bare or with everything that the mesh puts before a handler.

    python -m chaos.bench.call_server bare|mesh

Both speak gRPC over the same mTLS as `orders`. The issuer's key lies in jwk.json of the home. Audit records go through
the real recorder and are accepted, as a private service accepts them before its writer commits them.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import uvloop
from isthmus.orders.v1 import orders_pb2, orders_pb2_grpc

from mesh.clock import SystemClock
from mesh.process import Process, start
from mesh.server import ServerBuilder
from mesh.settings import ProcessSettings
from mesh.tls import Identity
from security.audit.record import AuditRecord
from security.audit.recorder import CallRecorder
from security.tokens.keys import PublishedKeys
from security.tokens.rule import TokenRule
from security.tokens.verifier import INNER, TokenVerifier


class Orders(orders_pb2_grpc.OrdersServicer):
    """Says which node it is in the place of the member."""

    def __init__(self) -> None:
        self._node = os.environ["ISTHMUS_NODE"]

    async def GetOrder(self, request: orders_pb2.GetOrderRequest, context: Any) -> orders_pb2.GetOrderResponse:
        return orders_pb2.GetOrderResponse(order=orders_pb2.Order(order_id=request.order_id, member_id=self._node))


class Accepted:
    """Takes records and lets them go."""

    def require_open(self) -> None:
        """Always open."""

    async def append(self, record: AuditRecord) -> None:
        """Durable at once."""

    def enqueue(self, record: AuditRecord) -> None:
        """Taken."""


async def guarded(settings: ProcessSettings, process: Process) -> None:
    async def jwks(sought: str) -> list[str]:
        return [(settings.home / "jwk.json").read_text()]

    clock = SystemClock()
    keys = PublishedKeys(jwks, clock)
    # An inner token, but one that outlives the measurement.
    verifier = TokenVerifier(keys, settings.issuer, settings.audience, clock, kind=replace(INNER, life_s_max=3600))
    tokens = TokenRule(verifier, clock)
    audit = CallRecorder(Accepted(), settings, clock)
    server = ServerBuilder(process, tokens=tokens, audit=audit)
    server.add(orders_pb2_grpc.add_OrdersServicer_to_server, Orders())  # type: ignore[abstract]
    server.add(orders_pb2_grpc.add_StockServicer_to_server, orders_pb2_grpc.StockServicer())  # type: ignore[abstract]
    await process.serve(server.build(), keys)


async def bare() -> None:
    identity = Identity(Path(os.environ["ISTHMUS_IDENTITY_DIR"]))
    server = grpc.aio.server()
    orders_pb2_grpc.add_OrdersServicer_to_server(Orders(), server)  # type: ignore[abstract]
    server.add_secure_port(os.environ["ISTHMUS_GRPC_ADDRESS"], identity.server_credentials())
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    if sys.argv[1] == "bare":
        uvloop.run(bare())
    else:
        start(guarded, ProcessSettings)
