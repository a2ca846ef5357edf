"""The orders server as others meet it: tokens, scopes and bad input are answered in type, over mTLS."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from isthmus.money.v1 import money_pb2
from isthmus.orders.v1 import orders_pb2 as pb
from isthmus.orders.v1 import orders_pb2_grpc

from mesh.errors import InvalidArgument, MeshError, NotFound, PermissionDenied, Unauthenticated
from security.audit.record import AuditRecord
from tests.integration.room import PrivateRoom

if TYPE_CHECKING:
    from isthmus.orders.v1.orders_pb2_grpc import OrdersAsyncStub, StockAsyncStub

    from tests.integration.orders.conftest import Room


class Records:
    """An audit sink that keeps records where the test sees them."""

    def __init__(self) -> None:
        self.kept: list[AuditRecord] = []

    def require_open(self) -> None:
        pass

    async def append(self, record: AuditRecord) -> None:
        self.kept.append(record)

    def enqueue(self, record: AuditRecord) -> None:
        self.kept.append(record)


class Wire:
    def __init__(self, server: PrivateRoom, stub: "OrdersAsyncStub", records: Records) -> None:
        self.server, self.stub, self.records = server, stub, records

    async def place(
        self, *scopes: str, subject: str = "storefront", minor: int = 2933, currency: str = "USD"
    ) -> pb.Order:
        line = pb.OrderLine(sku="cd-1", quantity=1, amount=money_pb2.Money(minor=minor, currency=currency))
        request = pb.PlaceOrderRequest(idempotency_key="key-place-1", member_id="member-1", lines=[line])
        metadata = self.server.bearer(*scopes, subject=subject) if scopes else []
        return (await self.stub.PlaceOrder(request, metadata=metadata)).order


@pytest.fixture
async def wire(room: "Room", tmp_path: Path) -> AsyncIterator[Wire]:
    server, records = PrivateRoom(tmp_path, "orders"), Records()
    stock = (orders_pb2_grpc.add_StockServicer_to_server, room.stock)
    serving = server.serving(orders_pb2_grpc.add_OrdersServicer_to_server, room.service, records, stock)
    async with serving, server.caller("core-gateway") as channel:
        yield Wire(server, orders_pb2_grpc.OrdersStub(channel), records)


async def test_a_client_with_the_scope_places_for_a_member_and_the_record_is_of_the_orders_transaction(
    wire: Wire, room: "Room"
) -> None:
    assert (await wire.place("orders.write")).total.minor == 2933
    written = "xmin::text AS transaction FROM"
    (record,) = await room.sql(f"SELECT token_subject, data_subject, result, {written} audit.record")
    (order,) = await room.sql(f"SELECT {written} orders.placed_order")
    assert tuple(record) == ("storefront", "member-1", "OK", order.transaction)
    # The repetition writes nothing but its own record.
    await wire.place("orders.write")
    (again,) = wire.records.kept
    assert (again.token_subject, again.data_subject, again.result) == ("storefront", "member-1", "OK")


async def test_without_a_token_or_its_scope_nothing_is_placed(wire: Wire, room: "Room") -> None:
    with pytest.raises(Unauthenticated):
        await wire.place()
    with pytest.raises(PermissionDenied):
        await wire.place("orders.read")
    assert await room.months() == []


async def test_a_member_places_for_nobody_else(wire: Wire) -> None:
    with pytest.raises(PermissionDenied) as refused:
        await wire.place("orders.write", subject="member-2")
    assert refused.value.reason == "MEMBER_NOT_YOURSELF"
    assert (await wire.place("orders.write", subject="member-1")).member_id == "member-1"


@pytest.mark.parametrize(
    ("minor", "currency", "reason"),
    [
        (-1, "USD", "AMOUNT_NEGATIVE"),
        (1, "ZZZ", "CURRENCY_UNKNOWN"),
        (1, "usd", "FIELDS_INVALID"),
        (1, "", "FIELDS_INVALID"),
    ],
)
async def test_bad_money_is_an_invalid_argument_that_says_no_more_than_needed(
    wire: Wire, minor: int, currency: str, reason: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await wire.place("orders.write", minor=minor, currency=currency)
    assert refused.value.reason == reason
    assert "Traceback" not in str(refused.value.to_status())
    assert "member-1" not in str(refused.value.to_status())


async def test_an_unlisted_workload_is_refused_whatever_it_holds(wire: Wire) -> None:
    async with wire.server.caller("warehouse") as channel:
        stub: OrdersAsyncStub = orders_pb2_grpc.OrdersStub(channel)
        with pytest.raises(MeshError) as refused:
            await stub.GetOrder(pb.GetOrderRequest(order_id="x"), metadata=wire.server.bearer("orders.read"))
    assert isinstance(refused.value, PermissionDenied)


async def test_a_change_of_no_pieces_is_no_change(wire: Wire, room: "Room") -> None:
    async with wire.server.caller("core-gateway") as channel:
        stock: StockAsyncStub = orders_pb2_grpc.StockStub(channel)
        request = pb.AdjustStockRequest(idempotency_key="key-stock-1", sku="cd-1", change=0)
        with pytest.raises(InvalidArgument) as refused:
            await stock.AdjustStock(request, metadata=wire.server.bearer("catalog.write"))
    assert [each.field for each in refused.value.fields] == ["change"]
    with pytest.raises(NotFound):
        await room.count("cd-1")
