"""The payments room on a real database, with an orders room and a provider that the test controls."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import pytest
from isthmus.money.v1 import money_pb2
from isthmus.payments.v1 import payments_pb2 as pb
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.call import Call, Claims, begin
from mesh.clock import SystemClock
from mesh.contract import load
from mesh.database.engine import async_engine, execute
from mesh.database.migrate import migrate, owners
from mesh.database.roles import as_role
from mesh.errors import MeshError, NotFound, Unavailable
from mesh.spiffe import SpiffeId
from private_core.money import Money
from private_core.payments.domain import Order, ProviderAnswer
from private_core.payments.notifications import NotificationService
from private_core.payments.reconciliation import Reconciliation
from private_core.payments.reconciliation_store import ReconciliationStore
from private_core.payments.service import LedgerService, PaymentsService
from private_core.payments.settlement import Settlement
from private_core.payments.statement import Act, Line
from private_core.payments.store import PaymentStore
from private_core.translation import current_caller

CLIENT = "storefront"


class FakeOrders:
    """Answers with the orders it was given."""

    def __init__(self) -> None:
        self.orders: dict[str, Order] = {}
        self.failure: MeshError | None = None

    async def read(self, order_id: str) -> Order:
        order = await self.inspect(order_id)
        if not current_caller().may_act_for(order.member_id):
            raise NotFound("ORDER_UNKNOWN", "there is no such order")
        return order

    async def inspect(self, order_id: str) -> Order:
        if self.failure is not None:
            raise self.failure
        if order_id not in self.orders:
            raise NotFound("ORDER_UNKNOWN", "there is no such order")
        return self.orders[order_id]


class FakeProvider:
    """Does what it is asked once per key, and can fall silent before or after it did. Its statements are `stated`."""

    name = "fake"
    acts = frozenset(Act)

    def __init__(self) -> None:
        self.done: dict[str, tuple[str, str, Money]] = {}
        self.asked = 0
        self.silent_before = 0
        self.silent_after = 0
        self.declines = False
        self.stated: dict[date, list[Line]] = {}

    async def lines(self, day: date) -> AsyncIterator[Line]:
        for line in self.stated.get(day, []):
            yield line

    async def hold(self, key: str, reference: str, amount: Money) -> ProviderAnswer:
        return await self._do(key, ("hold", reference, amount))

    async def take(self, key: str, reference: str, amount: Money) -> ProviderAnswer:
        return await self._do(key, ("take", reference, amount))

    async def release(self, key: str, reference: str, amount: Money) -> ProviderAnswer:
        return await self._do(key, ("release", reference, amount))

    async def give_back(self, key: str, reference: str, amount: Money) -> ProviderAnswer:
        return await self._do(key, ("give_back", reference, amount))

    def did(self, what: str) -> list[Money]:
        return [amount for kind, _, amount in self.done.values() if kind == what]

    async def _do(self, key: str, what: tuple[str, str, Money]) -> ProviderAnswer:
        self.asked += 1
        await asyncio.sleep(0)
        if self.silent_before:
            self.silent_before -= 1
            raise Unavailable("PROVIDER_SILENT", "no answer")
        if self.declines:
            return ProviderAnswer(False, f"p-{key}")
        assert self.done.setdefault(key, what) == what
        if self.silent_after:
            self.silent_after -= 1
            raise Unavailable("PROVIDER_SILENT", "no answer")
        return ProviderAnswer(True, f"p-{key}")


@dataclass
class Room:
    """Calls the services as the server would, as whichever subject."""

    engine: AsyncEngine
    store: PaymentStore
    orders: FakeOrders
    provider: FakeProvider
    hold_s: float = 60.0
    # With the rights of the room's own role, where `engine` has the owner's.
    own: AsyncEngine | None = None
    service: PaymentsService = field(init=False)
    ledger: LedgerService = field(init=False)
    entries: ReconciliationStore = field(init=False)
    reconciliation: Reconciliation = field(init=False)
    notifications: NotificationService = field(init=False)

    def __post_init__(self) -> None:
        self.service = PaymentsService(self.store, self.orders, self.provider, SystemClock(), self.hold_s)
        self.entries = ReconciliationStore(self.own or self.engine)
        self.reconciliation = Reconciliation(self.entries, self.provider, SystemClock())
        self.ledger = LedgerService(self.store, self.reconciliation)
        settlement = Settlement(self.store, self.orders, self.provider)
        self.notifications = NotificationService(self.store, self.entries, settlement, self.reconciliation)

    def order(self, order_id: str, minor: int = 2933, member: str = "member-1", currency: str = "USD") -> None:
        self.orders.orders[order_id] = Order(order_id, member, Money(minor, currency), placed=True)

    async def call(self, method: str, request: Any, subject: str = CLIENT) -> Any:
        policy = load().methods[f"/isthmus.payments.v1.Payments/{method}"]
        claims = Claims(subject, CLIENT, policy.scopes, int(time.time()) + 60, "token")
        peer = SpiffeId("private", "core-gateway")
        begin(Call(policy, peer, time.monotonic() + 10, claims=claims))
        return await getattr(self.service, method)(request, None)

    async def authorize(
        self, order_id: str, key: str, minor: int = 2933, currency: str = "USD", subject: str = CLIENT
    ) -> pb.Payment:
        amount = money_pb2.Money(minor=minor, currency=currency)
        request = pb.AuthorizePaymentRequest(
            idempotency_key=key, order_id=order_id, amount=amount, source_time_us=852076800_000000
        )
        answer: pb.AuthorizePaymentResponse = await self.call("AuthorizePayment", request, subject)
        return answer.payment

    async def capture(
        self, payment_id: str, key: str, subject: str = CLIENT, minor: int | None = None, currency: str = "USD"
    ) -> pb.Payment:
        amount = None if minor is None else money_pb2.Money(minor=minor, currency=currency)
        request = pb.CapturePaymentRequest(idempotency_key=key, payment_id=payment_id, amount=amount)
        answer: pb.CapturePaymentResponse = await self.call("CapturePayment", request, subject)
        return answer.payment

    async def void(self, payment_id: str, key: str, subject: str = CLIENT) -> pb.Payment:
        request = pb.VoidPaymentRequest(idempotency_key=key, payment_id=payment_id)
        answer: pb.VoidPaymentResponse = await self.call("VoidPayment", request, subject)
        return answer.payment

    async def refund(self, payment_id: str, key: str, minor: int, currency: str = "USD") -> pb.Payment:
        amount = money_pb2.Money(minor=minor, currency=currency)
        request = pb.RefundPaymentRequest(idempotency_key=key, payment_id=payment_id, amount=amount)
        answer: pb.RefundPaymentResponse = await self.call("RefundPayment", request)
        return answer.payment

    async def get(self, payment_id: str, subject: str = CLIENT) -> pb.Payment:
        answer: pb.GetPaymentResponse = await self.call(
            "GetPayment", pb.GetPaymentRequest(payment_id=payment_id), subject
        )
        return answer.payment

    async def sql(self, statement: str, **parameters: Any) -> list[Any]:
        return list(await execute(self.engine, text(statement), parameters))

    async def balances(self) -> dict[str, int]:
        answer = await self.ledger.GetTrialBalance(pb.GetTrialBalanceRequest(), None)
        assert all(one.minor == 0 for one in answer.sums)
        return {one.account: one.balance.minor for one in answer.balances}


@pytest.fixture(scope="module")
def payments_url(postgres_url: str) -> str:
    migrate(postgres_url, [owner for owner in owners() if owner.schema in ("payments", "orders", "outbox", "audit")])
    return postgres_url


@pytest.fixture
async def room(payments_url: str) -> AsyncIterator[Room]:
    engine = async_engine(payments_url, "test")
    tables = ("posting", "transfer", "operation", "payment", "idempotency", "difference", "reconciliation")
    orders = ("orders.line", "orders.placed_order", "orders.stock", "orders.idempotency")
    truncated = ", ".join((*(f"payments.{table}" for table in tables), *orders, "outbox.event"))
    async with engine.begin() as connection:
        # The books refuse to be emptied; a test may ask for it as their owner.
        await connection.execute(text("SET LOCAL session_replication_role = replica"))
        await connection.execute(text(f"TRUNCATE {truncated}"))
    own = async_engine(as_role(payments_url, "payments", [owner.versions.parent for owner in owners()]), "test")
    yield Room(engine, PaymentStore(own), FakeOrders(), FakeProvider(), own=own)
    await own.dispose()
    await engine.dispose()
