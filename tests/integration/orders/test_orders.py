"""Orders: placed once, seen by their owner alone, cancelled only while nothing is paid."""

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from isthmus.orders.v1 import orders_pb2 as pb
from isthmus.orders.v1.events_pb2 import OrderChanged

from mesh.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from private_core.orders.settlement import Settlement
from private_core.orders.store import OrderStore

if TYPE_CHECKING:
    from tests.integration.orders.conftest import Room


async def test_a_placed_order_reads_back_as_it_was_answered(room: "Room") -> None:
    order = await room.place("key-place-1", 2933, 0)
    assert (order.total.minor, order.total.currency, order.state) == (2933, "USD", pb.ORDER_STATE_PLACED)
    assert order.source_time_us == 852076800_000000
    assert await room.get(order.order_id) == order


async def test_an_order_keeps_the_ad_it_came_from_and_the_warehouse_is_told(room: "Room") -> None:
    order = await room.place("key-place-1", 2933, click_id="0af7651916cd43dd8448eb211c80319c")
    assert (await room.get(order.order_id)).click_id == "0af7651916cd43dd8448eb211c80319c"
    await room.cancel(order.order_id)
    told = [OrderChanged.FromString(row.payload) for row in await room.sql("SELECT * FROM outbox.event ORDER BY seq")]
    assert [event.state for event in told] == [pb.ORDER_STATE_PLACED, pb.ORDER_STATE_CANCELLED]
    assert {(event.order_id, event.click_id) for event in told} == {(order.order_id, order.click_id)}


async def test_ids_sort_by_the_time_of_placing(room: "Room") -> None:
    orders = []
    for number in range(5):
        orders.append(await room.place(f"key-place-{number}", 1))
        await asyncio.sleep(0.002)
    assert all(earlier.order_id < later.order_id for earlier, later in pairwise(orders))


async def test_the_first_answer_is_given_again_and_the_order_stored_once(room: "Room") -> None:
    answers = await asyncio.gather(*(room.place("key-place-1", 2933) for _ in range(40)))
    assert len({answer.order_id for answer in answers}) == 1
    assert await room.months() == [("1997-01", 1, 2933, "USD")]


async def test_a_key_with_another_body_is_refused(room: "Room") -> None:
    await room.place("key-place-1", 2933)
    with pytest.raises(AlreadyExists) as refused:
        await room.place("key-place-1", 2934)
    assert refused.value.reason == "IDEMPOTENCY_KEY_REUSED"
    assert len(await room.months()) == 1


async def test_equal_orders_with_their_own_keys_are_two_orders(room: "Room") -> None:
    await room.place("key-place-1", 2933)
    await room.place("key-place-2", 2933)
    assert await room.months() == [("1997-01", 2, 5866, "USD")]


async def test_an_unknown_member_is_refused_and_stays_refused_for_the_key(room: "Room") -> None:
    for _ in range(2):
        with pytest.raises(FailedPrecondition) as refused:
            await room.place("key-place-1", 2933, member="member-3")
        assert refused.value.reason == "MEMBER_UNKNOWN"
        room.members.members.add("member-3")
    assert (await room.place("key-place-2", 2933, member="member-3")).member_id == "member-3"


@pytest.mark.parametrize(
    ("amounts", "currency", "reason"),
    [
        ((-1,), "USD", "AMOUNT_NEGATIVE"),
        ((2**63 - 1, 1), "USD", "AMOUNT_OVERFLOW"),
        ((1,), "ZZZ", "CURRENCY_UNKNOWN"),
        ((), "USD", "ORDER_EMPTY"),
    ],
)
async def test_amounts_that_are_no_money_are_refused(
    room: "Room", amounts: tuple[int, ...], currency: str, reason: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await room.place("key-place-1", *amounts, currency=currency)
    assert refused.value.reason == reason
    assert await room.months() == []


async def test_a_source_time_in_the_future_is_refused(room: "Room") -> None:
    with pytest.raises(InvalidArgument) as refused:
        await room.place("key-place-1", 1, source_time_us=2**63 - 1)
    assert refused.value.reason == "SOURCE_TIME_AHEAD"


async def test_a_member_touches_only_their_own_orders(room: "Room") -> None:
    order = await room.place("key-place-1", 2933, subject="member-1")
    assert await room.get(order.order_id, "member-1") == order
    with pytest.raises(PermissionDenied):
        await room.place("key-place-2", 2933, member="member-1", subject="member-2")
    refusals = []
    for attempt in (
        room.get(order.order_id, "member-2"),
        room.cancel(order.order_id, "member-2"),
        room.get("none", "member-2"),
    ):
        with pytest.raises(NotFound) as refused:
            await attempt
        refusals.append(str(refused.value))
    assert len(set(refusals)) == 1


async def test_an_order_with_a_live_payment_is_not_cancelled(room: "Room") -> None:
    order = await room.place("key-place-1", 2933)
    room.payments.live.add(order.order_id)
    with pytest.raises(FailedPrecondition) as refused:
        await room.cancel(order.order_id)
    assert refused.value.reason == "ORDER_HAS_PAYMENT"
    assert (await room.get(order.order_id)).state == pb.ORDER_STATE_PLACED
    room.payments.live.clear()
    cancelled = await room.cancel(order.order_id)
    assert cancelled.state == pb.ORDER_STATE_CANCELLED
    assert await room.cancel(order.order_id) == cancelled
    assert await room.months() == []


async def test_while_payments_are_looked_at_no_payment_may_begin(room: "Room") -> None:
    order = await room.place("key-place-1", 2933)
    seen: list[Any] = []

    async def look() -> None:
        seen.extend(await room.sql("SELECT state FROM orders.placed_order"))

    room.payments.while_asked = look
    await room.cancel(order.order_id)
    assert seen == [("cancelling",)]


async def test_a_cancelling_that_another_call_disturbed_does_not_end(room: "Room") -> None:
    order = await room.place("key-place-1", 2933)

    async def disturb() -> None:
        await room.sql("UPDATE orders.placed_order SET state = 'placed', version = version + 1")

    room.payments.while_asked = disturb
    with pytest.raises(FailedPrecondition) as refused:
        await room.cancel(order.order_id)
    assert refused.value.reason == "CANCEL_DISTURBED"
    assert (await room.get(order.order_id)).state == pb.ORDER_STATE_PLACED


async def test_payments_away_leaves_the_order_to_be_cancelled_again(room: "Room") -> None:
    order = await room.place("key-place-1", 2933)

    async def away() -> None:
        raise Unavailable("RPC_FAILED", "away")

    room.payments.while_asked = away
    with pytest.raises(Unavailable):
        await room.cancel(order.order_id)
    room.payments.while_asked = None
    assert (await room.cancel(order.order_id)).state == pb.ORDER_STATE_CANCELLED


async def test_months_are_kept_apart_by_currency(room: "Room") -> None:
    await room.place("key-place-1", 100)
    await room.place("key-place-2", 200, currency="CNY")
    await room.place("key-place-3", 300, source_time_us=854755200_000000)
    assert await room.months() == [("1997-01", 1, 200, "CNY"), ("1997-01", 1, 100, "USD"), ("1997-02", 1, 300, "USD")]


@pytest.mark.parametrize("live", [True, False])
async def test_a_cancelling_that_nobody_ends_is_ended(room: "Room", live: bool) -> None:
    order = await room.place("key-place-1", 2933)

    async def away() -> None:
        raise Unavailable("AWAY", "no answer")

    room.payments.while_asked = away
    with pytest.raises(Unavailable):
        await room.cancel(order.order_id)
    assert (await room.get(order.order_id)).state == pb.ORDER_STATE_CANCELLING
    settlement = Settlement(OrderStore(room.engine), room.payments, abandoned_s=0)
    with pytest.raises(Unavailable):
        await settlement.round()
    room.payments.while_asked = None
    room.payments.live = {order.order_id} if live else set()
    # Not yet abandoned: whoever began it may still be there.
    assert await Settlement(OrderStore(room.engine), room.payments).round() == 0
    assert await settlement.round() == 1
    assert await settlement.round() == 0
    state = pb.ORDER_STATE_PLACED if live else pb.ORDER_STATE_CANCELLED
    assert (await room.get(order.order_id)).state == state
