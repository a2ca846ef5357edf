"""Idempotency records: the later of two calls waits for the earlier, and says what that said."""

import asyncio
import hashlib

import pytest
from isthmus.orders.v1 import orders_pb2
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh.database.engine import Database, execute, transact
from mesh.errors import AlreadyExists, FailedPrecondition
from private_core.storage.expiry import Expiry
from private_core.storage.idempotency import Answer, Idempotency, Intent
from tests.integration.removing import remover

ANSWER = Answer.of(orders_pb2.GetOrderResponse(order=orders_pb2.Order(order_id="order-1")))


def intent(key: str = "key", body: str = "body") -> Intent:
    return Intent(hashlib.sha256(key.encode()).digest(), hashlib.sha256(body.encode()).digest())


@pytest.fixture
def engine(room: Database) -> AsyncEngine:
    return room


@pytest.fixture
def records() -> Idempotency:
    return Idempotency("room")


async def claim(engine: AsyncEngine, records: Idempotency, of: Intent, answer: Answer | None = None) -> Answer | None:
    return await transact(engine, lambda tx: records.claim(tx, of, answer))


async def test_a_later_call_waits_for_the_earlier_transaction_and_gets_its_answer(
    engine: AsyncEngine, records: Idempotency
) -> None:
    claimed, may_end = asyncio.Event(), asyncio.Event()

    async def earlier(connection: AsyncConnection) -> None:
        assert await records.claim(connection, intent()) is None
        claimed.set()
        await may_end.wait()
        await records.settle(connection, intent(), ANSWER)

    async def later(connection: AsyncConnection) -> Answer | None:
        return await records.claim(connection, intent())

    first = asyncio.create_task(transact(engine, earlier))
    await claimed.wait()
    second = asyncio.create_task(transact(engine, later))
    waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    async with asyncio.timeout(5):
        while not (await execute(engine, waiting))[0][0]:  # noqa: ASYNC110 (the event is in the database)
            await asyncio.sleep(0.01)
    may_end.set()
    await first
    answer = await second
    assert answer is not None
    assert answer.give() == ANSWER.answer


async def test_a_call_whose_transaction_failed_leaves_no_record(engine: AsyncEngine, records: Idempotency) -> None:
    async def fails(connection: AsyncConnection) -> None:
        await records.claim(connection, intent(), ANSWER)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await transact(engine, fails)
    assert await claim(engine, records, intent(), ANSWER) is None


async def test_a_refusal_comes_back_as_it_was(engine: AsyncEngine, records: Idempotency) -> None:
    refusal = FailedPrecondition("WRONG_STATE", "not now", remedy="later", metadata={"state": "held"})
    await claim(engine, records, intent(), Answer.of(refusal))
    stored = await claim(engine, records, intent(), ANSWER)
    assert stored is not None
    with pytest.raises(FailedPrecondition) as again:
        stored.give()
    assert (again.value.reason, again.value.message, again.value.remedy) == ("WRONG_STATE", "not now", "later")
    assert again.value.metadata == {"state": "held"}


async def test_another_body_is_refused_whether_answered_or_open(engine: AsyncEngine, records: Idempotency) -> None:
    await claim(engine, records, intent("open"))
    await claim(engine, records, intent("answered"), ANSWER)
    for key in ("open", "answered"):
        with pytest.raises(AlreadyExists) as refused:
            await claim(engine, records, intent(key, "other"))
        assert refused.value.reason == "IDEMPOTENCY_KEY_REUSED"


async def test_an_open_record_is_taken_up_and_answered_once(engine: AsyncEngine, records: Idempotency) -> None:
    await claim(engine, records, intent())
    assert await claim(engine, records, intent(), ANSWER) is None
    first = await claim(engine, records, intent())
    assert first is not None
    assert first.give() == ANSWER.answer
    await transact(engine, lambda tx: records.settle(tx, intent(), Answer(answer=b"other")))
    again = await claim(engine, records, intent())
    assert again is not None
    assert again.give() == ANSWER.answer


async def test_an_answered_record_expires_and_its_key_is_free_again(engine: AsyncEngine, records: Idempotency) -> None:
    await claim(engine, records, intent("old"), ANSWER)
    await claim(engine, records, intent("open"))
    await execute(engine, text("UPDATE room.idempotency SET created_time = now() - interval '2 days'"))
    await claim(engine, records, intent("young"), ANSWER)
    # What cannot be put on record does not happen.
    await execute(engine, text("ALTER TABLE audit.record RENAME TO away"))
    with pytest.raises(DBAPIError):
        await Expiry.of_idempotency(engine, remover(), "room", age_s=86_400).round()
    await execute(engine, text("ALTER TABLE audit.away RENAME TO record"))
    assert await Expiry.of_idempotency(engine, remover(days=-1.5), "room", age_s=86_400).round() == 0
    expiry = Expiry.of_idempotency(engine, remover(), "room", age_s=86_400)
    assert await expiry.round() == 1
    assert await expiry.round() == 0
    assert [row.reason for row in await execute(engine, text("SELECT reason FROM audit.record"))] == [
        "REMOVED 1 room.idempotency"
    ]
    # The open one stands for work that somebody may still take up.
    rows = await execute(engine, text("SELECT intent FROM room.idempotency"))
    assert {row.intent for row in rows} == {intent("open").id, intent("young").id}
    assert await claim(engine, records, intent("old", "another body"), ANSWER) is None
