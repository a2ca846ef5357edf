"""Counted goods are promised to nobody twice: reserved when ordered, sold with the capture, free again otherwise."""

import asyncio
from typing import TYPE_CHECKING

import pytest
from isthmus.money.v1 import money_pb2
from isthmus.orders.v1 import orders_pb2 as pb
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from mesh.errors import FailedPrecondition, MeshError, NotFound
from private_core.orders.settlement import Settlement

if TYPE_CHECKING:
    from tests.integration.orders.conftest import Room

FOLLOW = "SELECT orders.follow_payment('{0}', '{1}')"


async def order(room: "Room", key: str, *lines: tuple[str, int]) -> pb.Order:
    amount = money_pb2.Money(minor=100, currency="USD")
    wanted = [pb.OrderLine(sku=sku, quantity=quantity, amount=amount) for sku, quantity in lines]
    request = pb.PlaceOrderRequest(idempotency_key=key, member_id="member-1", lines=wanted)
    answer: pb.PlaceOrderResponse = await room.call("PlaceOrder", request)
    return answer.order


async def test_goods_that_are_not_counted_are_sold_without_limit(room: "Room") -> None:
    await order(room, "key-place-1", ("cd-1", 10_000))
    with pytest.raises(NotFound):
        await room.count("cd-1")


async def test_pieces_are_reserved_by_an_order_and_free_when_it_is_cancelled(room: "Room") -> None:
    assert await room.adjust("key-stock-1", "cd-1", 5) == (5, 0)
    assert await room.adjust("key-stock-1", "cd-1", 5) == (5, 0)
    placed = await order(room, "key-place-1", ("cd-1", 2), ("cd-2", 7), ("cd-1", 1))
    assert await room.count("cd-1") == (5, 3)
    for _ in range(2):
        with pytest.raises(FailedPrecondition) as refused:
            await order(room, "key-place-2", ("cd-1", 3))
        assert refused.value.reason == "OUT_OF_STOCK"
    assert len(await room.months()) == 1
    await room.cancel(placed.order_id)
    await room.cancel(placed.order_id)
    assert await room.count("cd-1") == (5, 0)
    await order(room, "key-place-3", ("cd-1", 5))


async def test_an_order_of_several_goods_reserves_all_or_none(room: "Room") -> None:
    await room.adjust("key-stock-1", "cd-1", 5)
    await room.adjust("key-stock-2", "cd-2", 1)
    with pytest.raises(FailedPrecondition):
        await order(room, "key-place-1", ("cd-1", 1), ("cd-2", 2))
    assert (await room.count("cd-1"), await room.count("cd-2")) == ((5, 0), (1, 0))


async def test_parallel_orders_never_sell_a_piece_twice(room: "Room") -> None:
    for sku in ("cd-1", "cd-2"):
        await room.adjust(f"key-stock-{sku}", sku, 10)
    lines = [("cd-1", 1), ("cd-2", 1)]
    results = await asyncio.gather(
        *(order(room, f"key-place-{number}", *lines[:: 1 if number % 2 else -1]) for number in range(40)),
        return_exceptions=True,
    )
    assert sum(isinstance(one, pb.Order) for one in results) == 10
    assert {one.reason for one in results if isinstance(one, MeshError)} == {"OUT_OF_STOCK"}
    assert (await room.count("cd-1"), await room.count("cd-2")) == ((10, 10), (10, 10))


async def test_not_even_sql_promises_a_piece_twice(room: "Room") -> None:
    await room.adjust("key-stock-1", "cd-1", 5)
    with pytest.raises(DBAPIError, match="not_oversold"):
        async with room.engine.begin() as connection:
            await connection.execute(text("UPDATE orders.stock SET reserved = 6"))


async def test_pieces_cannot_be_taken_from_under_an_order(room: "Room") -> None:
    await room.adjust("key-stock-1", "cd-1", 5)
    await order(room, "key-place-1", ("cd-1", 3))
    for change in (-3, -6):
        for _ in range(2):
            with pytest.raises(FailedPrecondition) as refused:
                await room.adjust(f"key-stock{change}", "cd-1", change)
            assert refused.value.reason == "STOCK_RESERVED"
    assert await room.adjust("key-stock-4", "cd-1", -2) == (3, 3)


async def test_an_order_follows_its_payment_and_its_goods_are_sold_with_the_capture(room: "Room") -> None:
    await room.adjust("key-stock-1", "cd-1", 5)
    placed = await order(room, "key-place-1", ("cd-1", 3))
    for payment, state, stock in (
        ("authorized", pb.ORDER_STATE_AUTHORIZED, (5, 3)),
        ("voided", pb.ORDER_STATE_PLACED, (5, 3)),
        ("declined", pb.ORDER_STATE_PLACED, (5, 3)),
        ("authorized", pb.ORDER_STATE_AUTHORIZED, (5, 3)),
        ("captured", pb.ORDER_STATE_CAPTURED, (2, 0)),
        ("captured", pb.ORDER_STATE_CAPTURED, (2, 0)),
        ("refunded", pb.ORDER_STATE_REFUNDED, (2, 0)),
        ("authorized", pb.ORDER_STATE_REFUNDED, (2, 0)),
    ):
        await room.sql(FOLLOW.format(placed.order_id, payment))
        assert (await room.get(placed.order_id)).state == state, payment
        assert await room.count("cd-1") == stock, payment


@pytest.mark.parametrize(("payment", "reason"), [("authorized", "ORDER_HAS_PAYMENT"), ("refunded", "ORDER_REFUNDED")])
async def test_a_paid_order_is_not_cancelled(room: "Room", payment: str, reason: str) -> None:
    placed = await order(room, "key-place-1", ("cd-1", 3))
    for state in dict.fromkeys(("authorized", payment)):
        await room.sql(FOLLOW.format(placed.order_id, state))
    with pytest.raises(FailedPrecondition) as refused:
        await room.cancel(placed.order_id)
    assert refused.value.reason == reason


async def test_goods_counted_after_the_order_are_not_its(room: "Room") -> None:
    placed = await order(room, "key-place-1", ("cd-1", 3))
    await room.adjust("key-stock-1", "cd-1", 1)
    await room.sql(FOLLOW.format(placed.order_id, "authorized"))
    await room.sql(FOLLOW.format(placed.order_id, "captured"))
    assert await room.count("cd-1") == (1, 0)


async def test_an_order_that_nobody_pays_in_time_is_cancelled_and_its_goods_are_free(room: "Room") -> None:
    await room.adjust("key-stock-1", "cd-1", 5)
    paying, forgotten = [await order(room, f"key-place-{number}", ("cd-1", 1)) for number in range(2)]
    room.payments.live = {paying.order_id}
    assert await Settlement(room.store, room.payments).round() == 0
    assert await Settlement(room.store, room.payments, unpaid_s=0).round() == 2
    assert (await room.get(paying.order_id)).state == pb.ORDER_STATE_PLACED
    assert (await room.get(forgotten.order_id)).state == pb.ORDER_STATE_CANCELLED
    assert await room.count("cd-1") == (5, 1)


async def test_a_member_erased_in_the_middle_of_an_order_keeps_nobody_from_ending_it(room: "Room") -> None:
    await room.adjust("key-stock-1", "cd-1", 5)
    open_order, paid_order = [await order(room, f"key-place-{number}", ("cd-1", 1)) for number in range(2)]
    room.members.members.clear()
    await room.sql(FOLLOW.format(paid_order.order_id, "authorized"))
    await room.sql(FOLLOW.format(paid_order.order_id, "captured"))
    assert (await room.get(paid_order.order_id)).member_id == "member-1"
    await room.cancel(open_order.order_id)
    assert await room.count("cd-1") == (4, 0)
    with pytest.raises(FailedPrecondition) as refused:
        await order(room, "key-place-3", ("cd-1", 1))
    assert refused.value.reason == "MEMBER_UNKNOWN"
