"""What docs/clients.md shows: typed calls from outside, and a look at the services from inside."""

from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from isthmus.money.v1 import money_pb2
from isthmus.orders.v1 import orders_pb2, orders_pb2_grpc

from deploy.local.mesh import LocalMesh
from mesh.client.isthmus import Isthmus
from mesh.client.token import ClientToken
from mesh.errors import InvalidArgument, NotFound, PermissionDenied
from mesh.tls import Identity
from tests.e2e.public import public_client, register, root_certificate

if TYPE_CHECKING:
    from isthmus.orders.v1.orders_pb2_grpc import OrdersAsyncStub

pytestmark = pytest.mark.asyncio(loop_scope="session")


def token(mesh: LocalMesh, scope: str) -> ClientToken:
    return ClientToken("storefront", mesh.home.run("oauth") / "clients" / "storefront.pem", scope)


async def test_a_program_calls_with_typed_stubs(mesh: LocalMesh) -> None:
    async with public_client(mesh) as client:
        member_id = await register(mesh, client, "client-member-1", 41)
    root: Path = root_certificate(mesh)
    shop = token(mesh, "orders.read orders.write")
    async with Isthmus(mesh.urls["edge_gateway"], shop, root_certificate=root) as outside:
        orders: OrdersAsyncStub = orders_pb2_grpc.OrdersStub(outside.channel)
        wanted = orders_pb2.PlaceOrderRequest(
            idempotency_key="client-order-1",
            member_id=member_id,
            lines=[orders_pb2.OrderLine(sku="cd", quantity=1, amount=money_pb2.Money(currency="EUR", minor=100))],
        )
        placed = await orders.PlaceOrder(wanted)
        found = await orders.GetOrder(orders_pb2.GetOrderRequest(order_id=placed.order.order_id))
        assert (found.order.member_id, found.order.total.minor) == (member_id, 100)
        with pytest.raises(NotFound):
            await orders.GetOrder(orders_pb2.GetOrderRequest(order_id="0" * 36))
        with pytest.raises(InvalidArgument) as refused:
            await orders.PlaceOrder(orders_pb2.PlaceOrderRequest(idempotency_key="client-order-2"))
        assert "lines" in {each.field for each in refused.value.fields}
    async with Isthmus(mesh.urls["edge_gateway"], token(mesh, "orders.read"), root_certificate=root) as reader:
        orders = orders_pb2_grpc.OrdersStub(reader.channel)
        with pytest.raises(PermissionDenied, match="SCOPE_MISSING"):
            await orders.PlaceOrder(wanted)


async def test_an_operator_asks_a_service_what_it_serves(mesh: LocalMesh) -> None:
    address = next(row.process.listen("grpc") for row in mesh.rows if row.process.workload == "orders")
    options = (("grpc.ssl_target_name_override", f"orders.private.{mesh.settings.trust_domain}"),)
    credentials = Identity(mesh.home.identity("operator")).channel_credentials()
    async with grpc.aio.secure_channel(str(address), credentials, options=options) as channel:
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asked]), timeout=10)
        answer = await answers.read()
    assert "isthmus.orders.v1.Orders" in {each.name for each in answer.list_services_response.service}
