"""What rooms tell within the private core lands in the warehouse once, in its order, or not at all."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf.message import Message
from isthmus.money.v1 import money_pb2
from isthmus.orders.v1 import orders_pb2
from isthmus.orders.v1.events_pb2 import OrderChanged
from isthmus.payments.v1 import payments_pb2
from isthmus.payments.v1.events_pb2 import PaymentChanged
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.contract import load
from mesh.database.engine import async_engine, execute, transact
from mesh.database.migrate import migrate, owners
from mesh.errors import Internal
from private_core.storage import outbox
from private_core.warehouse.intake import BATCH, Intake, expiries
from tests.integration.removing import remover
from tests.integration.room import own

CLICK = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture(scope="module")
def url(postgres_url: str) -> str:
    migrate(postgres_url, [owner for owner in owners() if owner.schema in ("warehouse", "outbox", "bridge", "audit")])
    return postgres_url


@pytest.fixture
async def engine(url: str) -> AsyncIterator[AsyncEngine]:
    engine = async_engine(url, "test")
    await execute(engine, text("TRUNCATE warehouse.purchase, warehouse.payment, outbox.event"))
    yield engine
    await engine.dispose()


@pytest.fixture
async def room(url: str) -> AsyncIterator[AsyncEngine]:
    engine = async_engine(own(url, "warehouse"), "test")
    yield engine
    await engine.dispose()


async def tell(engine: AsyncEngine, *events: Message) -> None:
    async def work(tx: Any) -> None:
        for event in events:
            told = outbox.parameters(event)
            await outbox.append(tx, told["event_topic"], told["event_key"], event)

    await transact(engine, work)


async def rows(engine: AsyncEngine, table: str) -> list[Any]:
    return list(await execute(engine, text(f"SELECT * FROM {table} ORDER BY 1")))


def order(order_id: str, state: "orders_pb2.OrderState.ValueType", click_id: str = "") -> OrderChanged:
    return OrderChanged(
        order_id=order_id,
        member_id="member-1",
        state=state,
        total=money_pb2.Money(minor=2933, currency="USD"),
        click_id=click_id,
        source_time_us=852076800_000000,
        placed_time_us=1_790_000_000_000_000,
    )


def payment(captured: int, state: "payments_pb2.PaymentState.ValueType") -> PaymentChanged:
    return PaymentChanged(
        payment_id="payment-1",
        payment=payments_pb2.Payment(
            payment_id="payment-1",
            order_id="order-1",
            state=state,
            authorized=money_pb2.Money(minor=2933, currency="USD"),
            captured=money_pb2.Money(minor=captured, currency="USD"),
            refunded=money_pb2.Money(minor=0, currency="USD"),
        ),
    )


async def test_the_newest_state_of_each_lands_and_leaves_the_outbox(engine: AsyncEngine, room: AsyncEngine) -> None:
    await tell(
        engine,
        order("order-1", orders_pb2.ORDER_STATE_PLACED, CLICK),
        order("order-2", orders_pb2.ORDER_STATE_PLACED),
        order("order-2", orders_pb2.ORDER_STATE_CANCELLED),
        payment(0, payments_pb2.PAYMENT_STATE_AUTHORIZED),
        payment(2933, payments_pb2.PAYMENT_STATE_CAPTURED),
    )
    assert await Intake(room, load()).round() == 5
    assert await Intake(room, load()).round() == 0
    first, second = await rows(engine, "warehouse.purchase")
    assert (first.state, first.click_id.hex, first.total_minor) == ("placed", CLICK, 2933)
    assert (second.state, second.click_id) == ("cancelled", None)
    (paid,) = await rows(engine, "warehouse.payment")
    assert (paid.state, paid.captured_minor, paid.order_id) == ("captured", 2933, "order-1")


async def test_more_than_a_batch_lands_in_one_round_and_outward_rows_stay(
    engine: AsyncEngine, room: AsyncEngine
) -> None:
    await tell(engine, *(order(f"order-{n}", orders_pb2.ORDER_STATE_PLACED) for n in range(BATCH + 1)))
    await execute(engine, text("INSERT INTO outbox.event (topic, key) VALUES ('isthmus.campaign.v1', 'c-1')"))
    assert await Intake(room, load()).round() == BATCH + 1
    assert [row.topic for row in await rows(engine, "outbox.event")] == ["isthmus.campaign.v1"]


async def test_an_unreadable_event_lands_nothing_and_loses_nothing(engine: AsyncEngine, room: AsyncEngine) -> None:
    await tell(engine, order("order-1", orders_pb2.ORDER_STATE_PLACED))
    unreadable = "INSERT INTO outbox.event (topic, key, payload) VALUES ('isthmus.order.v1', 'order-2', '\\xff')"
    await execute(engine, text(unreadable))
    with pytest.raises(Internal) as stopped:
        await Intake(room, load()).round()
    assert stopped.value.reason == "EVENT_UNREADABLE"
    assert len(await rows(engine, "outbox.event")) == 2
    assert await rows(engine, "warehouse.purchase") == []


async def test_what_said_nothing_new_for_as_long_as_the_contract_keeps_it_goes(
    engine: AsyncEngine, room: AsyncEngine
) -> None:
    await tell(
        engine, order("order-1", orders_pb2.ORDER_STATE_PLACED), payment(0, payments_pb2.PAYMENT_STATE_AUTHORIZED)
    )
    await Intake(room, load()).round()
    for days, removed in ((3649, [0, 0]), (3651, [1, 1])):
        assert [await each.round() for each in expiries(room, load(), remover(days, "warehouse"))] == removed
    assert await rows(engine, "warehouse.purchase") == []
    said = await execute(engine, text("SELECT reason FROM audit.record ORDER BY sequence"))
    assert {row.reason for row in said} == {"REMOVED 1 warehouse.purchase", "REMOVED 1 warehouse.payment"}
