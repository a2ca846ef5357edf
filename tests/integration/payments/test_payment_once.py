"""However often it is asked for, and wherever a process dies, money moves once."""

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from isthmus.payments.v1 import payments_pb2 as pb

from mesh.errors import Aborted, AlreadyExists, FailedPrecondition, MeshError, Unavailable
from private_core.money import Money
from private_core.payments.domain import ProviderAnswer
from private_core.payments.settlement import Settlement
from private_core.payments.store import PaymentStore
from private_core.storage.expiry import Expiry
from private_core.storage.idempotency import Answer
from tests.integration.removing import remover

if TYPE_CHECKING:
    from tests.integration.payments.conftest import Room


class DyingStore(PaymentStore):
    """Dies after the provider answered and before anything of it is committed, as often as it is told to."""

    deaths = 0

    async def finish(self, *arguments: Any, **more: Any) -> Answer:
        if self.deaths:
            self.deaths -= 1
            raise ConnectionResetError("the process died here")
        return await super().finish(*arguments, **more)


async def test_the_first_answer_is_given_again(room: "Room") -> None:
    room.order("order-1")
    held = await room.authorize("order-1", "key-hold-1")
    await room.capture(held.payment_id, "key-take-1")
    assert await room.authorize("order-1", "key-hold-1") == held
    assert room.provider.asked == 2


async def test_a_refusal_is_given_again_even_when_it_would_be_allowed_now(room: "Room") -> None:
    room.order("order-1")
    held = await room.authorize("order-1", "key-hold-1")
    with pytest.raises(FailedPrecondition) as first:
        await room.refund(held.payment_id, "key-back-1", 100)
    await room.capture(held.payment_id, "key-take-1")
    with pytest.raises(FailedPrecondition) as again:
        await room.refund(held.payment_id, "key-back-1", 100)
    assert (again.value.reason, again.value.message, again.value.remedy) == (
        first.value.reason,
        first.value.message,
        first.value.remedy,
    )
    assert (await room.refund(held.payment_id, "key-back-2", 100)).refunded.minor == 100


async def test_a_key_with_another_body_is_refused(room: "Room") -> None:
    room.order("order-1")
    room.order("order-2")
    await room.authorize("order-1", "key-hold-1")
    with pytest.raises(AlreadyExists) as refused:
        await room.authorize("order-2", "key-hold-1")
    assert refused.value.reason == "IDEMPOTENCY_KEY_REUSED"


async def test_a_key_belongs_to_its_caller(room: "Room") -> None:
    for number in (1, 2):
        room.order(f"order-{number}", member=f"member-{number}")
        await room.authorize(f"order-{number}", "key-hold-same", subject=f"member-{number}")
    assert len(room.provider.did("hold")) == 2


async def test_parallel_calls_with_one_key_hold_once_and_answer_alike(room: "Room") -> None:
    room.order("order-1")
    answers = await asyncio.gather(*(room.authorize("order-1", "key-hold-1") for _ in range(40)))
    assert len({answer.SerializeToString(deterministic=True) for answer in answers}) == 1
    assert room.provider.did("hold") == [Money(2933, "USD")]
    assert (await room.balances())["holds:at-provider"] == 2933


async def test_parallel_holds_of_one_order_with_many_keys_hold_once(room: "Room") -> None:
    room.order("order-1")
    results = await asyncio.gather(
        *(room.authorize("order-1", f"key-hold-{number}") for number in range(40)), return_exceptions=True
    )
    assert sum(isinstance(one, pb.Payment) for one in results) == 1
    refused = {one.reason for one in results if isinstance(one, MeshError)}
    assert refused <= {"ORDER_HAS_PAYMENT", "PAYMENT_BUSY"}
    assert (await room.balances())["holds:at-provider"] == 2933


async def test_a_hundred_parallel_captures_take_it_once(room: "Room") -> None:
    room.order("order-1")
    held = await room.authorize("order-1", "key-hold-1")
    results = await asyncio.gather(
        *(room.capture(held.payment_id, f"key-take-{number}") for number in range(100)), return_exceptions=True
    )
    assert sum(isinstance(one, pb.Payment) for one in results) == 1
    refused = {one.reason for one in results if isinstance(one, MeshError)}
    assert refused <= {"PAYMENT_NOT_AUTHORIZED", "PAYMENT_BUSY"}
    assert room.provider.asked == 2
    assert room.provider.did("take") == [Money(2933, "USD")]
    assert (await room.balances())["merchant:revenue"] == -2933
    repeated = await asyncio.gather(
        *(room.capture(held.payment_id, f"key-take-{number}") for number in range(100)), return_exceptions=True
    )
    assert [isinstance(one, pb.Payment) for one in repeated] == [isinstance(one, pb.Payment) for one in results]
    assert {one.reason for one in repeated if isinstance(one, MeshError)} == {"PAYMENT_NOT_AUTHORIZED"}


@pytest.mark.parametrize("silence", ["silent_before", "silent_after"])
async def test_a_silent_provider_is_asked_again_under_the_same_key(room: "Room", silence: str) -> None:
    room.order("order-1")
    setattr(room.provider, silence, 1)
    with pytest.raises(Unavailable) as silent:
        await room.authorize("order-1", "key-hold-1")
    assert silent.value.reason == "PROVIDER_SILENT"
    held = await room.authorize("order-1", "key-hold-1")
    setattr(room.provider, silence, 1)
    with pytest.raises(Unavailable):
        await room.capture(held.payment_id, "key-take-1")
    assert (await room.capture(held.payment_id, "key-take-1")).state == pb.PAYMENT_STATE_CAPTURED
    assert len(room.provider.done) == 2
    assert (await room.balances())["merchant:revenue"] == -2933


async def test_death_between_provider_and_commit_leaves_one_charge_after_the_retry(room: "Room") -> None:
    room.order("order-1")
    dying = DyingStore(room.engine)
    room.store, healthy = dying, room.store
    room.__post_init__()
    dying.deaths = 1
    with pytest.raises(ConnectionResetError):
        await room.authorize("order-1", "key-hold-1")
    held = await room.authorize("order-1", "key-hold-1")
    dying.deaths = 1
    with pytest.raises(ConnectionResetError):
        await room.capture(held.payment_id, "key-take-1")
    # Another replica takes the repetition.
    room.store = healthy
    room.__post_init__()
    assert (await room.capture(held.payment_id, "key-take-1")).state == pb.PAYMENT_STATE_CAPTURED
    dying.deaths = 1
    room.store = dying
    room.__post_init__()
    with pytest.raises(ConnectionResetError):
        await room.refund(held.payment_id, "key-back-1", 933)
    assert (await room.refund(held.payment_id, "key-back-1", 933)).refunded.minor == 933
    assert sorted(kind for kind, _, _ in room.provider.done.values()) == ["give_back", "hold", "take"]
    assert (await room.balances())["provider:receivable"] == 2000


async def test_what_a_dead_caller_left_open_keeps_others_away_until_it_is_settled(room: "Room") -> None:
    room.order("order-1")
    settlement = Settlement(room.store, room.orders, room.provider, abandoned_s=0)
    room.provider.silent_after = 1
    with pytest.raises(Unavailable):
        await room.authorize("order-1", "key-hold-1")
    with pytest.raises(Aborted) as busy:
        await room.authorize("order-1", "key-hold-2")
    assert busy.value.reason == "PAYMENT_BUSY"
    assert await settlement.round() == 1
    held = await room.authorize("order-1", "key-hold-1")
    with pytest.raises(AlreadyExists):
        await room.authorize("order-1", "key-hold-2")
    room.provider.silent_after = 1
    with pytest.raises(Unavailable):
        await room.capture(held.payment_id, "key-take-1", minor=1000)
    for other in (room.capture(held.payment_id, "key-take-2", minor=1000), room.void(held.payment_id, "key-void-1")):
        with pytest.raises(Aborted):
            await other
    assert await settlement.round() == 1
    assert (await room.capture(held.payment_id, "key-take-2", minor=1000)).captured.minor == 2000
    assert room.provider.did("take") == [Money(1000, "USD"), Money(1000, "USD")]
    assert (await room.balances())["merchant:revenue"] == -2000


async def test_a_key_names_its_operation_also_when_its_record_has_gone(room: "Room") -> None:
    room.order("order-1")
    held = await room.authorize("order-1", "key-hold-1")
    taken = await room.capture(held.payment_id, "key-take-1", minor=1000)
    await room.sql("UPDATE payments.idempotency SET created_time = now() - interval '2 days'")
    assert await Expiry.of_idempotency(room.engine, remover(), "payments", 86_400).round() == 2
    asked = room.provider.asked
    assert await room.capture(held.payment_id, "key-take-1", minor=1000) == taken
    with pytest.raises(AlreadyExists) as reused:
        await room.capture(held.payment_id, "key-take-1", minor=1001)
    assert reused.value.reason == "IDEMPOTENCY_KEY_REUSED"
    assert (await room.authorize("order-1", "key-hold-1")).payment_id == held.payment_id
    assert room.provider.asked == asked
    assert (await room.balances())["merchant:revenue"] == -1000


async def test_no_transaction_is_open_while_the_provider_is_asked(
    room: "Room", monkeypatch: pytest.MonkeyPatch
) -> None:
    room.order("order-1")
    ask = room.provider.hold
    seen: list[Any] = []

    async def hold(key: str, reference: str, amount: Money) -> ProviderAnswer:
        seen.extend(await room.sql("SELECT pid FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"))
        return await ask(key, reference, amount)

    monkeypatch.setattr(room.provider, "hold", hold)
    await room.authorize("order-1", "key-hold-1")
    assert seen == []
