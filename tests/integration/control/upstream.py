"""A stand-in for an edge node, an authorization server or an orders service: real identity and server, tiny domain.

Run as a process of its own, so that tests can kill and freeze it. Over HTTP it tells what it received.
"""

import asyncio
import json
from pathlib import Path
from typing import Any, Final

from isthmus.ads.v1 import ads_pb2_grpc
from isthmus.clicks.v1 import clicks_pb2_grpc
from isthmus.content.v1 import content_pb2_grpc
from isthmus.members.v1 import members_pb2_grpc
from isthmus.oauth.v1 import oauth_pb2_grpc
from isthmus.orders.v1 import orders_pb2, orders_pb2_grpc

from mesh.call import current_call
from mesh.errors import FailedPrecondition, FieldViolation, InvalidArgument, NotFound, Unauthenticated, Unavailable
from mesh.process import Process, start
from mesh.server import ServerBuilder
from mesh.settings import ProcessSettings
from mesh.tls import Identity

ERRORS: Final = {
    "missing": NotFound("ORDER_NOT_FOUND", 'there is no order "missing"', remedy="look at your orders"),
    "conflict": FailedPrecondition("PAYMENT_LIVE", "a payment is live"),
    "away": Unavailable("DATABASE_AWAY", "try again"),
    "who": Unauthenticated("TOKEN_EXPIRED", "the token has expired"),
    "wrong": InvalidArgument(
        "FIELDS_INVALID", "wrong", fields=(FieldViolation("order_id", 'matches "^[a-z]+$", {x} ]'),)
    ),
}


class Orders(orders_pb2_grpc.OrdersServicer):
    def __init__(self, node: str) -> None:
        self._node = node

    async def PlaceOrder(self, request: orders_pb2.PlaceOrderRequest, context: Any) -> orders_pb2.PlaceOrderResponse:
        order = orders_pb2.Order(order_id=self._node, member_id=request.member_id, lines=request.lines)
        return orders_pb2.PlaceOrderResponse(order=order)

    async def GetOrder(self, request: orders_pb2.GetOrderRequest, context: Any) -> orders_pb2.GetOrderResponse:
        if request.order_id == "bug":
            raise RuntimeError("a secret of the inside")
        if request.order_id in ERRORS:
            raise ERRORS[request.order_id]
        left_ms = int(current_call().remaining_s() * 1000)
        order = orders_pb2.Order(order_id=request.order_id, member_id=self._node, source_time_us=left_ms)
        return orders_pb2.GetOrderResponse(order=order)


class Front:
    """HTTP/1.1 over mTLS: answers every request with what arrived."""

    def __init__(self, settings: ProcessSettings, identity: Identity) -> None:
        self._settings = settings
        self._identity = identity
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        host, port = str(self._settings.http_address).split(":")
        context = self._identity.ssl_context(server=True)
        self._server = await asyncio.start_server(self._serve, host, int(port), ssl=context)

    async def stop(self, grace_s: float) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, path, _ = head[0].split(" ")
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:-2])}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                status, answer = self._answer(method, path, headers, body)
                length = f"content-type: application/json\r\ncontent-length: {len(answer)}\r\n\r\n"
                writer.write(f"HTTP/1.1 {status}\r\n{length}".encode() + answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def _answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[str, bytes]:
        if path == "/oauth/jwks.json":
            return "200 OK", Path(self._settings.home, "jwks.json").read_bytes()
        seen = {"node": self._settings.node, "method": method, "path": path, "headers": headers, "body": len(body)}
        return "200 OK", json.dumps(seen).encode()


async def main(settings: ProcessSettings, process: Process) -> None:
    builder = ServerBuilder(process)
    if settings.workload == "edge":
        builder.add(ads_pb2_grpc.add_AdsServicer_to_server, ads_pb2_grpc.AdsServicer())
        builder.add(clicks_pb2_grpc.add_ClicksServicer_to_server, clicks_pb2_grpc.ClicksServicer())
        builder.add(content_pb2_grpc.add_ContentServicer_to_server, content_pb2_grpc.ContentServicer())
    elif settings.workload == "oauth":
        builder.add(oauth_pb2_grpc.add_KeysServicer_to_server, oauth_pb2_grpc.KeysServicer())
        builder.add(oauth_pb2_grpc.add_AccountsServicer_to_server, oauth_pb2_grpc.AccountsServicer())
    elif settings.workload == "members":
        builder.add(members_pb2_grpc.add_MembersServicer_to_server, members_pb2_grpc.MembersServicer())
    else:
        builder.add(orders_pb2_grpc.add_OrdersServicer_to_server, Orders(settings.node))
    fronts = [Front(settings, process.identity)] if settings.http_address else []
    await process.serve(builder.build(), *fronts)


if __name__ == "__main__":
    start(main, ProcessSettings)
