"""What docs/clients.md shows: typed calls from outside, and a look at the services from inside."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
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


def asked_by_reflection(address: str, credentials: grpc.ChannelCredentials, name: str) -> tuple[list[str], Any]:
    """The services, and an answer of one, by what they say of themselves alone: as grpcurl goes about it."""
    options = (("grpc.ssl_target_name_override", name),)
    with grpc.secure_channel(address, credentials, options=options) as channel:
        told = ProtoReflectionDescriptorDatabase(channel)
        service = DescriptorPool(told).FindServiceByName("isthmus.orders.v1.Orders")
        method = service.methods_by_name["SummarizeOrders"]
        asked, answer = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        assert asked is not orders_pb2.SummarizeOrdersRequest
        call = channel.unary_unary(f"/{service.full_name}/{method.name}", asked.SerializeToString, answer.FromString)
        return list(told.get_services()), call(asked(), timeout=10)


async def test_an_operator_asks_a_service_what_it_serves_and_calls_it(mesh: LocalMesh) -> None:
    address = next(row.process.listen("grpc") for row in mesh.rows if row.process.workload == "orders")
    credentials = Identity(mesh.home.identity("operator")).channel_credentials()
    name = f"orders.private.{mesh.settings.trust_domain}"
    services, answer = await asyncio.to_thread(asked_by_reflection, str(address), credentials, name)
    assert "isthmus.orders.v1.Orders" in services
    assert {field.name for field, _ in answer.ListFields()} <= {"months"}
    assert answer.DESCRIPTOR.full_name == "isthmus.orders.v1.SummarizeOrdersResponse"
