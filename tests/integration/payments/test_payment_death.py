"""Killed between any two steps, a payment is all or nothing in the books, and is finished without its caller."""

import asyncio
import json
import signal
import sys
from pathlib import Path

import pytest
from isthmus.orders.v1.events_pb2 import OrderChanged
from isthmus.payments.v1.events_pb2 import PaymentChanged

from private_core.payments.domain import Kind
from private_core.payments.settlement import Settlement
from private_core.payments.store import PaymentStore
from tests.integration.payments import victim
from tests.integration.payments.conftest import Room
from tests.integration.payments.victim import AMOUNT, GIVEN_BACK, PIECES, SKU, TAKEN, FolderProvider, orders_of

# Two orders placed, one cancelled by two statements; then two statements and one operation of the provider for each of
# hold, capture, refund and release; each before and after.
STEPS = (2 + 2 + 4 * 3) * 2
DEADLINE_S = 120.0
OPERATIONS = (
    "SELECT kind, progress FROM payments.operation JOIN payments.payment USING (payment_id) WHERE order_id = :id"
)
TRANSFERS = (
    "SELECT transfer.kind AS kind, operation.progress AS progress, sum(posting.amount) AS total,"
    " count(posting.posting_id) AS postings, min(operation.payment_id) AS payment_id"
    " FROM payments.transfer JOIN payments.posting USING (transfer_id)"
    " JOIN payments.operation ON operation_id = transfer_id JOIN payments.payment USING (payment_id)"
    " WHERE order_id = :id GROUP BY 1, 2"
)
ANSWERED = (
    "SELECT count(*) AS answers FROM payments.idempotency JOIN payments.operation"
    " ON operation_id = left(encode(intent, 'hex'), 32) JOIN payments.payment USING (payment_id)"
    " WHERE order_id = :id AND progress = 'done' AND answer IS NOT NULL"
)
ORDER = "SELECT state FROM orders.placed_order WHERE order_id = :id"
ORDERS_TOLD = "SELECT payload FROM outbox.event WHERE topic = 'isthmus.order.v1'"
RECORDED = "SELECT method FROM audit.record WHERE data_subject = :id"
TOLD = "SELECT payload FROM outbox.event WHERE topic = 'isthmus.payment.v1' ORDER BY seq"
METHODS = {Kind.HOLD: "Authorize", Kind.CAPTURE: "Capture", Kind.REFUND: "Refund", Kind.VOID: "Void"}
# The order, by what of its payment is done.
ORDER_STATES = {
    frozenset[str](): "placed",
    frozenset({"hold"}): "authorized",
    frozenset({"hold", "capture"}): "authorized",
    frozenset({"hold", "capture", "refund"}): "authorized",
    frozenset({"hold", "capture", "refund", "void"}): "captured",
}


@pytest.mark.timeout(180)
async def test_a_process_killed_at_any_step_leaves_all_or_nothing(
    room: Room, payments_url: str, tmp_path: Path
) -> None:
    await room.sql("INSERT INTO orders.stock (sku, on_hand) VALUES (:sku, :pieces)", sku=SKU, pieces=10 * STEPS)
    command = (sys.executable, "-m", victim.__name__, payments_url, str(tmp_path), str(STEPS))
    process = await asyncio.create_subprocess_exec(
        *command, cwd=Path(__file__).parents[3], stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(DEADLINE_S):
        said, _ = await process.communicate()
    # There are just so many steps: the last one lived.
    assert json.loads(said) == [-signal.SIGKILL] * STEPS + [0]
    ids = [f"order-{step}" for step in range(STEPS + 1)]
    for order_id in ids:
        await all_or_nothing(room, order_id)
    await goods_are_where_the_orders_say(room)
    provider = FolderProvider(tmp_path)
    await Settlement(PaymentStore(room.engine), orders_of(*ids), provider, abandoned_s=0).round()
    for order_id in ids:
        await finished_without_its_caller(room, provider, order_id)
    await goods_are_where_the_orders_say(room)
    await room.balances()


async def all_or_nothing(room: Room, order_id: str) -> None:
    """What is done has its postings, answer, event and audit record; what is not has none of them."""
    done = {row.kind for row in await room.sql(OPERATIONS, id=order_id) if row.progress == "done"}
    transfers = await room.sql(TRANSFERS, id=order_id)
    assert {row.kind for row in transfers} == done
    assert all(row.progress == "done" and row.total == 0 and row.postings for row in transfers)
    assert (await room.sql(ANSWERED, id=order_id))[0].answers == len(done)
    states = [row.state for row in await room.sql(ORDER, id=order_id)]
    assert states == ([ORDER_STATES[frozenset(done)]] if states else [])
    recorded = sorted(row.method for row in await room.sql(RECORDED, id=order_id))
    assert recorded == sorted([*(METHODS[Kind(kind)] for kind in done), *("Place" for _ in states)])
    told = [PaymentChanged.FromString(row.payload).payment for row in await room.sql(TOLD)]
    assert sum(payment.order_id == order_id for payment in told) == len(done)


async def goods_are_where_the_orders_say(room: Room) -> None:
    rows = await room.sql("SELECT state, count(*) AS orders FROM orders.placed_order GROUP BY state")
    orders = {row.state: row.orders for row in rows}
    open_orders = sum(orders.get(state, 0) for state in ("placed", "cancelling", "authorized"))
    (stock,) = await room.sql("SELECT on_hand, reserved FROM orders.stock")
    sold = orders.get("captured", 0)
    assert (stock.on_hand, stock.reserved) == (10 * STEPS - PIECES * sold, PIECES * open_orders)
    told = [OrderChanged.FromString(row.payload) for row in await room.sql(ORDERS_TOLD)]
    assert len(told) == sum(orders.values()) + orders.get("cancelled", 0)


async def finished_without_its_caller(room: Room, provider: FolderProvider, order_id: str) -> None:
    operations = await room.sql(OPERATIONS, id=order_id)
    assert all(row.progress == "done" for row in operations), operations
    # The provider did just what the books say, once each.
    kinds = {"hold": "hold", "capture": "take", "refund": "give_back", "void": "release"}
    payments = await room.sql("SELECT * FROM payments.payment WHERE order_id = :id", id=order_id)
    did = [kind for payment in payments for kind in provider.did(payment.payment_id)]
    assert did == sorted(kinds[row.kind] for row in operations)
    states = [(one.state, one.captured, one.refunded, one.released) for one in payments]
    expected: dict[int, list[tuple[str, int, int, int]]] = {
        0: [],
        1: [("authorized", 0, 0, 0)],
        2: [("authorized", TAKEN, 0, 0)],
        3: [("authorized", TAKEN, GIVEN_BACK, 0)],
        4: [("captured", TAKEN, GIVEN_BACK, AMOUNT - TAKEN)],
    }
    assert states == expected[len(operations)]


async def test_the_repetition_of_a_settled_call_gets_its_answer(room: Room) -> None:
    room.order("order-1")
    room.provider.silent_after = 1
    with pytest.raises(Exception, match="PROVIDER_SILENT"):
        await room.authorize("order-1", "key-hold-1")
    settlement = Settlement(room.store, room.orders, room.provider, abandoned_s=0)
    assert await settlement.round() == 1
    assert await settlement.round() == 0
    held = await room.authorize("order-1", "key-hold-1")
    assert (await room.capture(held.payment_id, "key-take-1", subject="member-1")).captured.minor == AMOUNT


async def test_what_nobody_can_tell_yet_stays_open(room: Room) -> None:
    room.order("order-1")
    room.provider.silent_after = 1
    with pytest.raises(Exception, match="PROVIDER_SILENT"):
        await room.authorize("order-1", "key-hold-1")
    settlement = Settlement(room.store, room.orders, room.provider, abandoned_s=0)
    room.provider.silent_before = 1
    assert await settlement.round() == 0
    assert await settlement.round() == 1


async def test_a_hold_of_an_order_that_is_no_more_is_closed(room: Room) -> None:
    room.order("order-1")
    room.provider.silent_before = 1
    with pytest.raises(Exception, match="PROVIDER_SILENT"):
        await room.authorize("order-1", "key-hold-1")
    del room.orders.orders["order-1"]
    assert await Settlement(room.store, room.orders, room.provider, abandoned_s=0).round() == 1
    assert [tuple(row) for row in await room.sql(OPERATIONS, id="order-1")] == [("hold", "declined")]
