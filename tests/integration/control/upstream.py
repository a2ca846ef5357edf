"""A stand-in for an edge node, an authorization server or an orders service: real identity and server, tiny domain.

Run as a process of its own, so that tests can kill and freeze it. Over HTTP it tells what it received.
"""

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
from public_edge.http.server import HttpServer

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


def bare(servicer: Any) -> Any:
    """A servicer whose methods all answer that they are not implemented."""
    return servicer()


class Echo:
    """An RSGI application that answers every request with what arrived."""

    def __init__(self, settings: ProcessSettings) -> None:
        self._settings = settings

    def answer_at_once(self, scope: Any, protocol: Any) -> bool:
        """It waits for bodies, so never."""
        return False

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        body = await protocol()
        if scope.path == "/oauth/jwks.json":
            answer = Path(self._settings.home, "jwks.json").read_text()
        else:
            seen = {"method": scope.method, "path": scope.path, "headers": dict(scope.headers.items())}
            answer = json.dumps({"node": self._settings.node, **seen, "body": len(body)})
        protocol.response_str(200, [("content-type", "application/json")], answer)


async def main(settings: ProcessSettings, process: Process) -> None:
    builder = ServerBuilder(process)
    if settings.workload == "edge":
        builder.add(ads_pb2_grpc.add_AdsServicer_to_server, bare(ads_pb2_grpc.AdsServicer))
        builder.add(clicks_pb2_grpc.add_ClicksServicer_to_server, bare(clicks_pb2_grpc.ClicksServicer))
        builder.add(content_pb2_grpc.add_ContentServicer_to_server, bare(content_pb2_grpc.ContentServicer))
    elif settings.workload == "oauth":
        builder.add(oauth_pb2_grpc.add_KeysServicer_to_server, bare(oauth_pb2_grpc.KeysServicer))
        builder.add(oauth_pb2_grpc.add_AccountsServicer_to_server, bare(oauth_pb2_grpc.AccountsServicer))
    elif settings.workload == "members":
        builder.add(members_pb2_grpc.add_MembersServicer_to_server, bare(members_pb2_grpc.MembersServicer))
        builder.add(members_pb2_grpc.add_DataKeysServicer_to_server, bare(members_pb2_grpc.DataKeysServicer))
    else:
        builder.add(orders_pb2_grpc.add_OrdersServicer_to_server, Orders(settings.node))  # type: ignore[abstract]
    address = settings.http_address
    fronts = [HttpServer(Echo(settings), address, settings.identity_dir)] if address else []  # type: ignore[arg-type]
    await process.serve(builder.build(), *fronts)


if __name__ == "__main__":
    start(main, ProcessSettings)
