"""A stand-in for an edge node, an authorization server or an orders service: real identity and server, tiny domain.

Run as a process of its own, so that tests can kill and freeze it. Over HTTP it tells what it received.
"""

import json
from pathlib import Path
from typing import Any, Final

from envoy.service.auth.v3 import external_auth_pb2_grpc
from isthmus.orders.v1 import orders_pb2, orders_pb2_grpc

from mesh.call import current_call
from mesh.clock import SystemClock
from mesh.errors import FailedPrecondition, FieldViolation, InvalidArgument, NotFound, Unauthenticated, Unavailable
from mesh.process import Process, start
from mesh.server import ServerBuilder
from mesh.settings import ProcessSettings
from mesh.spiffe import SpiffeId
from public_edge.http.server import HttpServer
from security.audit.record import AuditRecord
from security.gateway.decision import Decider
from security.gateway.minting import Mint
from security.gateway.service import AuthorizationService
from security.gateway.shield import Mode, Shield
from security.tokens.dpop import Nonces
from security.tokens.keys import parse_jwk
from security.tokens.verifier import TokenVerifier
from tests.stand_in import AnyToken, Forgetful, serve_unimplemented

ORDERS: Final = "isthmus.orders.v1.Orders"
# What a server may say of itself beside its answer.
INTERNALS: Final = (
    ("grpc-status", "0"),
    ("grpc-message", "fine"),
    ("grpc-status-details-bin", "CAA"),
    ("grpc-encoding", "identity"),
    ("grpc-accept-encoding", "gzip"),
    ("server", "stand-in"),
)
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
        if request.order_id == "token":
            return orders_pb2.GetOrderResponse(order=orders_pb2.Order(member_id=current_call().authorization))
        left_ms = int(current_call().remaining_s() * 1000)
        order = orders_pb2.Order(order_id=request.order_id, member_id=self._node, source_time_us=left_ms)
        return orders_pb2.GetOrderResponse(order=order)


class NoRecords:
    """An audit log that forgets."""

    def require_open(self) -> None:
        """Always open."""

    async def append(self, record: AuditRecord) -> None:
        """Forgotten."""

    def enqueue(self, record: AuditRecord) -> None:
        """Forgotten."""


class NoProofs:
    """Proofs of possession, which nobody brings here."""

    async def first_use(self, digest: bytes, until: int) -> bool:
        return False


class FileKeys:
    """The keys that the stand-in for the authorization server publishes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def held(self, kid: str) -> Any:
        return dict(parse_jwk(json.dumps(jwk)) for jwk in json.loads(self._path.read_text())["keys"]).get(kid)

    async def key(self, kid: str) -> Any:
        return self.held(kid)


async def gateway(settings: ProcessSettings, process: Process, builder: ServerBuilder) -> Mint:
    """The real decision point, but for where its keys come from and its records go."""
    clock = SystemClock()

    async def publish(jwk: str) -> None:
        """Nobody here checks inner tokens."""

    mint = Mint(settings.trust_domain, publish, clock)
    keys = FileKeys(settings.home / "jwks.json")
    decider = Decider(
        process.contract,
        TokenVerifier(keys, settings.issuer, settings.audience, clock),
        mint,
        NoProofs(),
        Nonces(b"stand-in", clock),
        SpiffeId("private", "core-gateway", settings.trust_domain),
        SpiffeId("public", "edge-gateway", settings.trust_domain),
        settings.issuer,
        clock,
    )
    builder.add_infrastructure(
        external_auth_pb2_grpc.add_AuthorizationServicer_to_server,
        AuthorizationService(decider, Shield(process.contract, Mode.ENFORCE), NoRecords(), settings, clock),
        frozenset({"core-gateway"}),
    )
    return mint


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
        protocol.response_str(200, [("content-type", "application/json"), *INTERNALS], answer)


async def main(settings: ProcessSettings, process: Process) -> None:
    # The gateways are what the tests look at: whatever they let through arrives.
    builder = ServerBuilder(process, tokens=AnyToken(), audit=Forgetful())
    services: list[Any] = []
    if settings.workload == "gateway":
        services.append(await gateway(settings, process, builder))
    elif settings.workload == "orders":
        builder.add(orders_pb2_grpc.add_OrdersServicer_to_server, Orders(settings.node))  # type: ignore[abstract]
    serve_unimplemented(builder, process.contract, settings.workload, ORDERS)
    address = settings.http_address
    if address:
        services.append(HttpServer(Echo(settings), address, settings.identity_dir))  # type: ignore[arg-type]
    await process.serve(builder.build(), *services)


if __name__ == "__main__":
    start(main, ProcessSettings)
