"""A payment from the hold to the refund, and what is refused on the way."""

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from isthmus.payments.v1 import payments_pb2 as pb

from mesh.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    MeshError,
    NotFound,
    Unavailable,
)
from private_core.money import Money
from private_core.payments.settlement import Settlement

if TYPE_CHECKING:
    from tests.integration.payments.conftest import Room


async def test_a_captured_payment_leaves_receivable_and_revenue_and_no_hold(room: "Room") -> None:
    room.order("order-1")
    held = await room.authorize("order-1", "key-hold-1")
    assert held.state == pb.PAYMENT_STATE_AUTHORIZED
    assert await room.balances() == {"holds:at-provider": 2933, "holds:of-members": -2933}
    taken = await room.capture(held.payment_id, "key-take-1")
    assert (taken.state, taken.captured.minor) == (pb.PAYMENT_STATE_CAPTURED, 2933)
    assert await room.balances() == {
        "holds:at-provider": 0,
        "holds:of-members": 0,
        "merchant:revenue": -2933,
        "provider:receivable": 2933,
    }
    assert await room.get(held.payment_id) == taken


async def test_a_purchase_of_nothing_is_a_payment(room: "Room") -> None:
    room.order("order-0", minor=0)
    held = await room.authorize("order-0", "key-hold-0", minor=0)
    assert (await room.capture(held.payment_id, "key-take-0")).state == pb.PAYMENT_STATE_CAPTURED


async def test_the_largest_amount_fits(room: "Room") -> None:
    room.order("order-max", minor=2**63 - 1)
    held = await room.authorize("order-max", "key-hold-max", minor=2**63 - 1)
    assert (await room.capture(held.payment_id, "key-take-max")).captured.minor == 2**63 - 1


async def test_a_balance_beyond_64_bits_is_kept_and_refused_as_an_answer(room: "Room") -> None:
    for number in range(2):
        room.order(f"order-{number}", minor=2**63 - 1)
        held = await room.authorize(f"order-{number}", f"key-hold-{number}", minor=2**63 - 1)
        await room.capture(held.payment_id, f"key-take-{number}")
    with pytest.raises(Internal, match="BALANCE_OVERFLOW"):
        await room.ledger.GetTrialBalance(pb.GetTrialBalanceRequest(), None)
    # The books have it all, and take more.
    kept = "SELECT sum(amount) AS total FROM payments.posting WHERE account = 'provider:receivable'"
    assert (await room.sql(kept))[0].total == 2 * (2**63 - 1)
    await room.refund(held.payment_id, "key-back-1", minor=2**63 - 1)
    assert (await room.sql(kept))[0].total == 2**63 - 1


async def test_captures_are_counted_per_month_of_their_source_time(room: "Room") -> None:
    for number in range(3):
        room.order(f"order-{number}")
        held = await room.authorize(f"order-{number}", f"key-hold-{number}")
        if number:
            await room.capture(held.payment_id, f"key-take-{number}")
    (month,) = (await room.ledger.SummarizeCaptures(pb.SummarizeCapturesRequest(), None)).months
    assert (month.month, month.captures, month.amount.minor) == ("1997-01", 2, 5866)


@pytest.mark.parametrize(
    ("order_id", "minor", "currency", "error", "reason"),
    [
        ("order-none", 2933, "USD", NotFound, "ORDER_UNKNOWN"),
        ("order-1", 2932, "USD", FailedPrecondition, "AMOUNT_MISMATCH"),
        ("order-1", 2933, "EUR", FailedPrecondition, "AMOUNT_MISMATCH"),
        ("order-1", -1, "USD", InvalidArgument, "AMOUNT_NEGATIVE"),
        ("order-1", 2933, "ZZZ", InvalidArgument, "CURRENCY_UNKNOWN"),
        ("order-cancelled", 2933, "USD", FailedPrecondition, "ORDER_NOT_PLACED"),
    ],
)
async def test_what_cannot_be_paid_never_reaches_the_provider(
    room: "Room", order_id: str, minor: int, currency: str, error: type[MeshError], reason: str
) -> None:
    room.order("order-1")
    room.order("order-cancelled")
    orders = room.orders.orders
    orders["order-cancelled"] = replace(orders["order-cancelled"], placed=False)
    for _ in range(2):
        with pytest.raises(error) as refused:
            await room.authorize(order_id, "key-hold-bad", minor, currency)
        assert refused.value.reason == reason
    assert room.provider.asked == 0
    assert await room.balances() == {}


async def test_a_refused_hold_leaves_the_order_free_for_another(room: "Room") -> None:
    room.order("order-1")
    with pytest.raises(FailedPrecondition):
        await room.authorize("order-1", "key-hold-1", minor=1)
    assert (await room.authorize("order-1", "key-hold-2")).state == pb.PAYMENT_STATE_AUTHORIZED


async def test_an_order_has_one_live_payment(room: "Room") -> None:
    room.order("order-1")
    await room.authorize("order-1", "key-hold-1")
    with pytest.raises(AlreadyExists) as refused:
        await room.authorize("order-1", "key-hold-2")
    assert refused.value.reason == "ORDER_HAS_PAYMENT"
    assert room.provider.did("hold") == [Money(2933, "USD")]


async def test_a_declined_hold_is_a_payment_that_says_so_and_posts_nothing(room: "Room") -> None:
    room.order("order-1")
    room.provider.declines = True
    declined = await room.authorize("order-1", "key-hold-1")
    assert declined.state == pb.PAYMENT_STATE_DECLINED
    assert await room.balances() == {}
    with pytest.raises(FailedPrecondition) as refused:
        await room.capture(declined.payment_id, "key-take-1")
    assert refused.value.reason == "PAYMENT_NOT_AUTHORIZED"


async def test_a_hold_is_taken_in_parts_and_the_rest_released(room: "Room") -> None:
    room.order("order-1")
    held = await room.authorize("order-1", "key-hold-1")
    part = await room.capture(held.payment_id, "key-take-1", minor=1000)
    assert (part.state, part.captured.minor) == (pb.PAYMENT_STATE_AUTHORIZED, 1000)
    for minor, currency, reason in (
        (1934, "USD", "CAPTURE_OVER_HOLD"),
        (2**63 - 1, "USD", "CAPTURE_OVER_HOLD"),
        (1, "EUR", "CURRENCY_MISMATCH"),
        (0, "USD", "CAPTURE_EMPTY"),
        (-1, "USD", "AMOUNT_NEGATIVE"),
        (1, "ZZZ", "CURRENCY_UNKNOWN"),
    ):
        with pytest.raises(MeshError) as wrong:
            await room.capture(held.payment_id, f"key-{minor}-{currency}", minor=minor, currency=currency)
        assert wrong.value.reason == reason
    assert (await room.refund(held.payment_id, "key-back-1", 1000)).state == pb.PAYMENT_STATE_AUTHORIZED
    await room.capture(held.payment_id, "key-take-2", minor=933)
    ended = await room.void(held.payment_id, "key-void-1")
    assert (ended.state, ended.captured.minor, ended.released.minor) == (pb.PAYMENT_STATE_CAPTURED, 1933, 1000)
    assert await room.void(held.payment_id, "key-void-1") == ended
    with pytest.raises(FailedPrecondition):
        await room.capture(held.payment_id, "key-take-3", minor=1)
    assert await room.balances() == {
        "holds:at-provider": 0,
        "holds:of-members": 0,
        "merchant:refunds": 1000,
        "merchant:revenue": -1933,
        "provider:receivable": 933,
    }
    assert room.provider.did("release") == [Money(1000, "USD")]


async def test_a_voided_payment_leaves_its_order_free_for_another(room: "Room") -> None:
    room.order("order-1")
    held = await room.authorize("order-1", "key-hold-1")
    assert (await room.void(held.payment_id, "key-void-1")).state == pb.PAYMENT_STATE_VOIDED
    assert (await room.authorize("order-1", "key-hold-2")).state == pb.PAYMENT_STATE_AUTHORIZED


async def test_parallel_captures_and_a_release_share_one_hold(room: "Room") -> None:
    room.order("order-1", minor=1000)
    held = await room.authorize("order-1", "key-hold-1", minor=1000)
    for _ in range(20):
        calls = [room.capture(held.payment_id, f"key-take-{number}", minor=150) for number in range(10)]
        results = await asyncio.gather(*calls, room.void(held.payment_id, "key-void-1"), return_exceptions=True)
        if not any(isinstance(one, Aborted) for one in results):
            break
    now = await room.get(held.payment_id)
    assert now.captured.minor + now.released.minor == 1000
    assert now.captured.minor % 150 == 0
    took = sum(amount.minor for amount in room.provider.did("take"))
    assert (took, room.provider.did("release")) == (now.captured.minor, [Money(now.released.minor, "USD")])
    assert (await room.balances())["holds:at-provider"] == 0


async def test_what_is_left_of_a_hold_runs_out(room: "Room") -> None:
    for number in range(3):
        room.order(f"order-{number}")
    settlement = Settlement(room.store, room.orders, room.provider)
    room.hold_s = -1.0
    room.__post_init__()
    whole = await room.authorize("order-0", "key-hold-0")
    part = await room.authorize("order-1", "key-hold-1")
    await room.capture(part.payment_id, "key-take-1", minor=933)
    room.hold_s = 60.0
    room.__post_init__()
    living = await room.authorize("order-2", "key-hold-2")
    room.provider.silent_after = 1
    assert await settlement.round() == 1
    assert await Settlement(room.store, room.orders, room.provider, abandoned_s=0).round() == 1
    assert await settlement.round() == 0
    states = [(await room.get(one.payment_id)).state for one in (whole, part, living)]
    assert states == [pb.PAYMENT_STATE_EXPIRED, pb.PAYMENT_STATE_CAPTURED, pb.PAYMENT_STATE_AUTHORIZED]
    assert (await room.balances())["holds:at-provider"] == 2933
    with pytest.raises(FailedPrecondition) as refused:
        await room.capture(whole.payment_id, "key-take-0")
    assert refused.value.reason == "PAYMENT_NOT_AUTHORIZED"


async def test_holds_that_cannot_be_released_keep_no_others_from_running_out(room: "Room") -> None:
    for number in range(2):
        room.order(f"order-{number}")
    room.hold_s = -1.0
    room.__post_init__()
    first, second = [await room.authorize(f"order-{number}", f"key-hold-{number}") for number in range(2)]
    # The release of the first is under way and the provider silent: its hold is as it was.
    begun = [await room.store.begin_expiries(1) for _ in range(3)]
    assert [[one.payment.payment_id for one in each] for each in begun] == [
        [first.payment_id],
        [second.payment_id],
        [],
    ]


async def test_what_stays_open_keeps_nothing_else_from_being_settled(room: "Room") -> None:
    room.hold_s = -1.0
    room.__post_init__()
    for number in range(2):
        room.order(f"order-{number}")
        await room.authorize(f"order-{number}", f"key-hold-{number}")
    open_ = {one.operation_id for one in await room.store.begin_expiries(2)}
    found = {one.operation_id for _ in range(64) for one in await room.store.abandoned(0, 1)}
    assert found == open_


async def test_refunds_in_parts_never_exceed_what_was_captured(room: "Room") -> None:
    room.order("order-1")
    held = await room.authorize("order-1", "key-hold-1")
    with pytest.raises(FailedPrecondition) as refused:
        await room.refund(held.payment_id, "key-back-0", 1)
    assert refused.value.reason == "PAYMENT_NOT_CAPTURED"
    await room.capture(held.payment_id, "key-take-1")
    assert (await room.refund(held.payment_id, "key-back-1", 2000)).refunded.minor == 2000
    for minor, reason in ((934, "REFUND_OVER_CAPTURE"), (0, "REFUND_EMPTY"), (2**63 - 1, "REFUND_OVER_CAPTURE")):
        with pytest.raises(MeshError) as wrong:
            await room.refund(held.payment_id, f"key-back-{minor}", minor)
        assert wrong.value.reason == reason
    whole = await room.refund(held.payment_id, "key-back-2", 933)
    assert (whole.state, whole.refunded.minor) == (pb.PAYMENT_STATE_REFUNDED, 2933)
    assert (await room.balances())["merchant:refunds"] == 2933
    with pytest.raises(FailedPrecondition):
        await room.refund(held.payment_id, "key-back-3", 1)


async def test_parallel_refunds_give_back_no_more_than_was_captured(room: "Room") -> None:
    room.order("order-1", minor=1000)
    held = await room.authorize("order-1", "key-hold-1", minor=1000)
    await room.capture(held.payment_id, "key-take-1")
    results = await asyncio.gather(
        *(room.refund(held.payment_id, f"key-back-{number}", 100) for number in range(30)), return_exceptions=True
    )
    assert sum(isinstance(one, pb.Payment) for one in results) == 10
    assert {one.reason for one in results if isinstance(one, MeshError)} == {"REFUND_OVER_CAPTURE"}
    assert sum(amount.minor for amount in room.provider.did("give_back")) == 1000
    assert (await room.get(held.payment_id)).state == pb.PAYMENT_STATE_REFUNDED
    assert (await room.balances())["merchant:refunds"] == 1000


async def test_a_member_sees_and_takes_only_payments_of_their_own_orders(room: "Room") -> None:
    room.order("order-1", member="member-1")
    held = await room.authorize("order-1", "key-hold-1", subject="member-1")
    assert (await room.get(held.payment_id, "member-1")).payment_id == held.payment_id
    for attempt in (
        room.get(held.payment_id, "member-2"),
        room.capture(held.payment_id, "key-take-2", "member-2"),
        room.get("no-such-payment", "member-2"),
    ):
        with pytest.raises(NotFound) as refused:
            await attempt
        assert refused.value.reason == "PAYMENT_UNKNOWN"


async def test_a_member_leaves_no_trace_at_anothers_order(room: "Room") -> None:
    room.order("order-1", member="member-1")
    room.orders.failure = Unavailable("RPC_FAILED", "away")
    with pytest.raises(Unavailable):
        await room.authorize("order-1", "key-hold-2", subject="member-2")
    room.orders.failure = None
    # Nothing is left that could be finished without its caller.
    assert await Settlement(room.store, room.orders, room.provider, abandoned_s=0).round() == 0
    with pytest.raises(NotFound, match="ORDER_UNKNOWN"):
        await room.authorize("order-1", "key-hold-3", subject="member-2")
    assert await room.sql("SELECT 1 FROM payments.payment") == []
    await room.authorize("order-1", "key-hold-1", subject="member-1")
    # Nor do they learn that it is paid.
    with pytest.raises(NotFound, match="ORDER_UNKNOWN"):
        await room.authorize("order-1", "key-hold-4", subject="member-2")
    assert room.provider.did("hold") == [Money(2933, "USD")]


async def test_orders_away_decides_nothing_and_the_same_call_goes_on_later(room: "Room") -> None:
    room.order("order-1")
    room.orders.failure = Unavailable("RPC_FAILED", "away")
    with pytest.raises(Unavailable):
        await room.authorize("order-1", "key-hold-1")
    (pending,) = (await room.service.ListPayments(pb.ListPaymentsRequest(order_id="order-1"), None)).payments
    assert pending.state == pb.PAYMENT_STATE_PENDING
    room.orders.failure = None
    assert (await room.authorize("order-1", "key-hold-1")).payment_id == pending.payment_id
