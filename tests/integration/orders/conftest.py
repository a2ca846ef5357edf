"""The orders room on a real database, with members and payments rooms that the test controls."""

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from isthmus.money.v1 import money_pb2
from isthmus.orders.v1 import orders_pb2 as pb
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.call import Call, Claims, begin
from mesh.clock import SystemClock
from mesh.contract import load
from mesh.database.engine import async_engine, execute
from mesh.database.migrate import migrate, owners
from mesh.database.roles import as_role
from mesh.spiffe import SpiffeId
from private_core.orders.service import OrdersService, StockService
from private_core.orders.store import OrderStore

CLIENT = "storefront"


class FakeMembers:
    def __init__(self) -> None:
        self.members = {"member-1", "member-2"}

    async def registered(self, member_id: str) -> bool:
        return member_id in self.members


class FakePayments:
    """`live`: the orders with a live payment. `while_asked`: what happens elsewhere while orders asks."""

    def __init__(self) -> None:
        self.live: set[str] = set()
        self.while_asked: Any = None

    async def any_live(self, order_id: str) -> bool:
        if self.while_asked is not None:
            await self.while_asked()
        return order_id in self.live


class Room:
    """Calls the service as the server would, as whichever subject."""

    def __init__(self, engine: AsyncEngine, own: AsyncEngine) -> None:
        """own: with the rights of the room's own role, where `engine` has the owner's."""
        self.engine = engine
        self.members = FakeMembers()
        self.payments = FakePayments()
        self.store = OrderStore(own)
        self.service = OrdersService(self.store, self.members, self.payments, SystemClock())
        self.stock = StockService(self.store)

    async def call(self, method: str, request: Any, subject: str = CLIENT, service: Any = None) -> Any:
        named = "Orders" if service is None else "Stock"
        policy = load().methods[f"/isthmus.orders.v1.{named}/{method}"]
        claims = Claims(subject, CLIENT, policy.scopes, int(time.time()) + 60, "token")
        begin(Call(policy, SpiffeId("private", "core-gateway"), time.monotonic() + 10, claims=claims))
        return await getattr(service or self.service, method)(request, None)

    async def place(
        self,
        key: str,
        *amounts: int,
        member: str = "member-1",
        currency: str = "USD",
        source_time_us: int = 852076800_000000,
        subject: str = CLIENT,
        click_id: str = "",
    ) -> pb.Order:
        lines = [
            pb.OrderLine(sku=f"cd-{n}", quantity=n + 1, amount=money_pb2.Money(minor=minor, currency=currency))
            for n, minor in enumerate(amounts)
        ]
        request = pb.PlaceOrderRequest(
            idempotency_key=key, member_id=member, lines=lines, source_time_us=source_time_us, click_id=click_id
        )
        answer: pb.PlaceOrderResponse = await self.call("PlaceOrder", request, subject)
        return answer.order

    async def get(self, order_id: str, subject: str = CLIENT) -> pb.Order:
        answer: pb.GetOrderResponse = await self.call("GetOrder", pb.GetOrderRequest(order_id=order_id), subject)
        return answer.order

    async def cancel(self, order_id: str, subject: str = CLIENT) -> pb.Order:
        answer: pb.CancelOrderResponse = await self.call(
            "CancelOrder", pb.CancelOrderRequest(order_id=order_id), subject
        )
        return answer.order

    async def adjust(self, key: str, sku: str, change: int) -> tuple[int, int]:
        """Pieces on hand, and how many of these are reserved."""
        request = pb.AdjustStockRequest(idempotency_key=key, sku=sku, change=change)
        answer: pb.AdjustStockResponse = await self.call("AdjustStock", request, service=self.stock)
        return answer.inventory.on_hand, answer.inventory.reserved

    async def count(self, sku: str) -> tuple[int, int]:
        """As `adjust`."""
        answer: pb.GetStockResponse = await self.call("GetStock", pb.GetStockRequest(sku=sku), service=self.stock)
        return answer.inventory.on_hand, answer.inventory.reserved

    async def months(self) -> list[tuple[str, int, int, str]]:
        answer = await self.service.SummarizeOrders(pb.SummarizeOrdersRequest(), None)
        return [(one.month, one.orders, one.amount.minor, one.amount.currency) for one in answer.months]

    async def sql(self, statement: str) -> list[Any]:
        return list(await execute(self.engine, text(statement)))


@pytest.fixture(scope="module")
def orders_url(postgres_url: str) -> str:
    migrate(postgres_url, [owner for owner in owners() if owner.schema in ("orders", "outbox", "audit")])
    return postgres_url


@pytest.fixture
async def room(orders_url: str) -> AsyncIterator[Room]:
    engine = async_engine(orders_url, "test")
    await execute(
        engine, text("TRUNCATE orders.line, orders.placed_order, orders.stock, orders.idempotency, outbox.event")
    )
    own = async_engine(as_role(orders_url, "orders", [owner.versions.parent for owner in owners()]), "test")
    yield Room(engine, own)
    await own.dispose()
    await engine.dispose()
