"""The Orders service: convert, ask the domain, convert back."""

from dataclasses import replace
from typing import Any

from isthmus.orders.v1 import orders_pb2, orders_pb2_grpc

from mesh.clock import Clock
from private_core.identifiers import new_id
from private_core.orders import domain
from private_core.orders.messages import order_message
from private_core.orders.store import OrderStore
from private_core.storage.idempotency import Answer, intent_of
from private_core.translation import current_caller, error_of, money_message, money_of, translated


class OrdersService(orders_pb2_grpc.OrdersServicer):
    def __init__(self, store: OrderStore, members: domain.Members, payments: domain.Payments, clock: Clock) -> None:
        self._store = store
        self._members = members
        self._payments = payments
        self._clock = clock

    async def PlaceOrder(self, request: orders_pb2.PlaceOrderRequest, context: Any) -> orders_pb2.PlaceOrderResponse:
        now_us = self._clock.now_us()
        intent = intent_of(request, request.idempotency_key)
        with translated():
            lines = [domain.Line(line.sku, line.quantity, money_of(line.amount)) for line in request.lines]
            order = domain.place(
                new_id(now_us),
                request.member_id,
                lines,
                request.source_time_us,
                now_us,
                current_caller(),
                request.click_id,
            )
        if await self._members.registered(order.member_id):
            answer = Answer.of(orders_pb2.PlaceOrderResponse(order=order_message(order)))
            first = await self._store.place(intent, order, answer)
        else:
            first = await self._store.refuse(intent, Answer.of(error_of(domain.unknown_member())))
        return orders_pb2.PlaceOrderResponse.FromString(first.give())

    async def GetOrder(self, request: orders_pb2.GetOrderRequest, context: Any) -> orders_pb2.GetOrderResponse:
        return orders_pb2.GetOrderResponse(order=order_message(await self._read(request.order_id)))

    async def InspectOrder(
        self, request: orders_pb2.InspectOrderRequest, context: Any
    ) -> orders_pb2.InspectOrderResponse:
        order = await self._store.read(request.order_id)
        with translated():
            return orders_pb2.InspectOrderResponse(order=order_message(domain.existing(order)))

    async def CancelOrder(self, request: orders_pb2.CancelOrderRequest, context: Any) -> orders_pb2.CancelOrderResponse:
        order = await self._read(request.order_id)
        version = await self._store.begin_cancel(order.order_id)
        if version is None:
            # Cancelled already, or paid, maybe only since it was read.
            with translated():
                domain.cancellable(await self._read(request.order_id))
        else:
            live = await self._payments.any_live(order.order_id)
            ended = await self._store.end_cancel(replace(order, state=domain.decided(live)), version)
            with translated():
                if live:
                    raise domain.paid()
                if not ended:
                    raise domain.disturbed()
        return orders_pb2.CancelOrderResponse(order=order_message(replace(order, state=domain.State.CANCELLED)))

    async def SummarizeOrders(
        self, request: orders_pb2.SummarizeOrdersRequest, context: Any
    ) -> orders_pb2.SummarizeOrdersResponse:
        with translated():
            months = await self._store.months()
        return orders_pb2.SummarizeOrdersResponse(
            months=[
                orders_pb2.OrderMonth(month=month.month, orders=month.orders, amount=money_message(month.amount))
                for month in months
            ]
        )

    async def _read(self, order_id: str) -> domain.Order:
        order = await self._store.read(order_id)
        with translated():
            return domain.readable(order, current_caller())


class StockService(orders_pb2_grpc.StockServicer):
    """The goods that are counted."""

    def __init__(self, store: OrderStore) -> None:
        self._store = store

    async def AdjustStock(self, request: orders_pb2.AdjustStockRequest, context: Any) -> orders_pb2.AdjustStockResponse:
        intent = intent_of(request, request.idempotency_key)
        first = await self._store.adjust(
            intent,
            request.sku,
            request.change,
            lambda stock: Answer.of(orders_pb2.AdjustStockResponse(inventory=_inventory(stock))),
        )
        return orders_pb2.AdjustStockResponse.FromString(first.give())

    async def GetStock(self, request: orders_pb2.GetStockRequest, context: Any) -> orders_pb2.GetStockResponse:
        stock = await self._store.stock(request.sku)
        with translated():
            if stock is None:
                raise domain.unknown_stock()
        return orders_pb2.GetStockResponse(inventory=_inventory(stock))


def _inventory(stock: domain.Stock) -> orders_pb2.Inventory:
    return orders_pb2.Inventory(sku=stock.sku, on_hand=stock.on_hand, reserved=stock.reserved)
