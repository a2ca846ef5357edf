"""Calls out: the order behind a payment, and the provider, over the channels of the mesh."""

from collections.abc import AsyncIterator, Awaitable
from datetime import date

import grpc
from isthmus.orders.v1 import orders_pb2, orders_pb2_grpc
from isthmus.payments.v1 import sandbox_pb2, sandbox_pb2_grpc

from mesh.errors import DeadlineExceeded, Unavailable
from private_core.money import Money
from private_core.payments.domain import Order, ProviderAnswer
from private_core.payments.messages import line_of
from private_core.payments.statement import LINES_MAX, Act, Line, too_long
from private_core.translation import money_message, money_of

_Answer = sandbox_pb2.HoldResponse | sandbox_pb2.TakeResponse | sandbox_pb2.ReleaseResponse | sandbox_pb2.ReturnResponse


class OrdersClient:
    """domain.Orders over gRPC."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: orders_pb2_grpc.OrdersAsyncStub = orders_pb2_grpc.OrdersStub(channel)

    async def read(self, order_id: str) -> Order:
        return _order((await self._stub.GetOrder(orders_pb2.GetOrderRequest(order_id=order_id))).order)

    async def inspect(self, order_id: str) -> Order:
        order = (await self._stub.InspectOrder(orders_pb2.InspectOrderRequest(order_id=order_id))).order
        if order.state == orders_pb2.ORDER_STATE_CANCELLING:
            raise Unavailable("ORDER_UNDECIDED", "the order is being cancelled, or kept", remedy="look again later")
        return _order(order)


def _order(order: orders_pb2.Order) -> Order:
    placed = order.state == orders_pb2.ORDER_STATE_PLACED
    return Order(order.order_id, order.member_id, money_of(order.total), placed)


class SandboxClient:
    """domain.Provider and statement.Statements at the sandbox provider."""

    name = "sandbox"
    acts = frozenset(Act)

    def __init__(self, channel: grpc.aio.Channel, timeout_s: float) -> None:
        self._stub: sandbox_pb2_grpc.SandboxProviderAsyncStub = sandbox_pb2_grpc.SandboxProviderStub(channel)
        self._timeout_s = timeout_s

    async def hold(self, key: str, reference: str, amount: Money) -> ProviderAnswer:
        request = sandbox_pb2.HoldRequest(idempotency_key=key, reference=reference, amount=money_message(amount))
        return await self._ask(self._stub.Hold(request, timeout=self._timeout_s))

    async def take(self, key: str, reference: str, amount: Money) -> ProviderAnswer:
        request = sandbox_pb2.TakeRequest(idempotency_key=key, reference=reference, amount=money_message(amount))
        return await self._ask(self._stub.Take(request, timeout=self._timeout_s))

    async def release(self, key: str, reference: str, amount: Money) -> ProviderAnswer:
        request = sandbox_pb2.ReleaseRequest(idempotency_key=key, reference=reference, amount=money_message(amount))
        return await self._ask(self._stub.Release(request, timeout=self._timeout_s))

    async def give_back(self, key: str, reference: str, amount: Money) -> ProviderAnswer:
        request = sandbox_pb2.ReturnRequest(idempotency_key=key, reference=reference, amount=money_message(amount))
        return await self._ask(self._stub.Return(request, timeout=self._timeout_s))

    async def lines(self, day: date) -> AsyncIterator[Line]:
        """What the provider states of one day, UTC. Raises MeshError."""
        after = 0
        while after < LINES_MAX:
            request = sandbox_pb2.ListStatementRequest(day=day.isoformat(), after=after)
            page = (await self._stub.ListStatement(request)).lines
            if not page:
                return
            for line in page:
                yield line_of(line)
            after += len(page)
        raise too_long(day)

    async def _ask(self, call: Awaitable[_Answer]) -> ProviderAnswer:
        try:
            answer = await call
        except (DeadlineExceeded, Unavailable) as error:
            # It may have happened there. The operation stays open here, and its key makes asking again harmless.
            raise Unavailable(
                "PROVIDER_SILENT",
                "the payment provider did not answer; whether it acted is not known yet",
                remedy="repeat the call with the same idempotency key",
            ) from error
        return ProviderAnswer(answer.approved, answer.provider_id)
