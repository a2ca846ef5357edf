"""The database itself keeps the books: SQL cannot post what does not balance, nor change what was posted."""

from typing import TYPE_CHECKING

import pytest
from isthmus.payments.v1 import payments_pb2 as pb
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

if TYPE_CHECKING:
    from tests.integration.payments.conftest import Room

HALF = "INSERT INTO payments.posting (transfer_id, account, currency, amount) VALUES ('{0}', '{1}', '{2}', {3})"


@pytest.fixture
async def transfer(room: "Room") -> str:
    """The id of a hold's transfer."""
    room.order("order-1")
    await room.authorize("order-1", "key-hold-1")
    ((transfer_id,),) = await room.sql("SELECT transfer_id FROM payments.transfer")
    return str(transfer_id)


async def commit(room: "Room", *statements: str) -> None:
    async with room.engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))


async def test_a_posting_that_unbalances_its_transfer_cannot_commit(room: "Room", transfer: str) -> None:
    with pytest.raises(DBAPIError, match="does not sum to zero"):
        await commit(room, HALF.format(transfer, "merchant:revenue", "USD", -1))


async def test_currencies_balance_each_for_itself(room: "Room", transfer: str) -> None:
    with pytest.raises(DBAPIError, match="does not sum to zero"):
        await commit(
            room,
            HALF.format(transfer, "merchant:revenue", "USD", -1),
            HALF.format(transfer, "provider:receivable", "EUR", 1),
        )


async def test_a_transfer_without_postings_cannot_commit(room: "Room", transfer: str) -> None:
    await room.sql(
        "INSERT INTO payments.operation (operation_id, payment_id, kind, amount)"
        " SELECT 'op-x', payment_id, 'capture', 1 FROM payments.payment"
    )
    with pytest.raises(DBAPIError, match="has no postings"):
        await commit(room, "INSERT INTO payments.transfer VALUES ('op-x', 'capture', now())")


async def test_an_unknown_account_cannot_be_posted_to(room: "Room", transfer: str) -> None:
    with pytest.raises(DBAPIError, match="foreign key"):
        await commit(
            room,
            HALF.format(transfer, "pocket:mine", "USD", 1),
            HALF.format(transfer, "merchant:revenue", "USD", -1),
        )


@pytest.mark.parametrize(
    "tamper",
    [
        "UPDATE payments.posting SET amount = amount + 1",
        "UPDATE payments.posting SET amount = amount + 1 WHERE false",
        "DELETE FROM payments.posting",
        "TRUNCATE payments.posting",
        "UPDATE payments.transfer SET source_time = now()",
        "DELETE FROM payments.transfer",
        "TRUNCATE payments.transfer CASCADE",
    ],
)
async def test_the_books_are_only_ever_added_to(room: "Room", transfer: str, tamper: str) -> None:
    before = await room.balances()
    with pytest.raises(DBAPIError, match="only ever added to"):
        await commit(room, tamper)
    assert await room.balances() == before


async def test_a_payment_cannot_be_refunded_beyond_its_capture_even_in_sql(room: "Room", transfer: str) -> None:
    with pytest.raises(DBAPIError, match="check constraint"):
        await commit(room, "UPDATE payments.payment SET refunded = 1")


async def test_a_row_forced_past_the_triggers_shows_in_the_trial_balance(room: "Room", transfer: str) -> None:
    await commit(
        room, "SET LOCAL session_replication_role = replica", "UPDATE payments.posting SET amount = 1 WHERE amount > 0"
    )
    answer = await room.ledger.GetTrialBalance(pb.GetTrialBalanceRequest(), None)
    assert [one.minor for one in answer.sums] == [1 - 2933]


@pytest.mark.parametrize(
    ("debit", "credit"),
    [
        # More taken from the hold than was held; more given back than was taken; a sale of less than nothing.
        ("holds:of-members", "holds:at-provider"),
        ("merchant:refunds", "provider:receivable"),
        ("merchant:revenue", "merchant:refunds"),
    ],
)
async def test_no_account_is_overdrawn_by_a_payment_even_in_sql(
    room: "Room", transfer: str, debit: str, credit: str
) -> None:
    await room.sql(
        "INSERT INTO payments.operation (operation_id, payment_id, kind, progress, amount)"
        " SELECT 'op-over', payment_id, 'refund', 'done', 2934 FROM payments.payment"
    )
    with pytest.raises(DBAPIError, match="overdraws the account"):
        await commit(
            room,
            "INSERT INTO payments.transfer VALUES ('op-over', 'refund', now())",
            HALF.format("op-over", debit, "USD", 2934),
            HALF.format("op-over", credit, "USD", -2934),
        )


async def test_what_two_add_to_one_transfer_at_once_is_held_to_the_rule_together(room: "Room", transfer: str) -> None:
    await room.sql(
        "INSERT INTO payments.operation (operation_id, payment_id, kind, progress, amount)"
        " SELECT 'op-twice', payment_id, 'refund', 'done', 1 FROM payments.payment"
    )

    def taken(minor: int) -> tuple[str, str]:
        """So much of the hold, which is of 2933."""
        return (
            HALF.format("op-twice", "holds:of-members", "USD", minor),
            HALF.format("op-twice", "holds:at-provider", "USD", -minor),
        )

    await commit(room, "INSERT INTO payments.transfer VALUES ('op-twice', 'refund', now())", *taken(1))
    async with room.engine.connect() as first, room.engine.connect() as second:
        for connection in (first, second):
            for statement in taken(2000):
                await connection.execute(text(statement))
        await second.commit()
        with pytest.raises(DBAPIError, match="overdraws the account"):
            await first.commit()
    # Nor by a number that was left out, so that others seem to come later.
    with pytest.raises(DBAPIError, match="overdraws the account"):
        await commit(
            room,
            *(
                one.replace("posting (", "posting (posting_id, ").replace(
                    "VALUES (", f"OVERRIDING SYSTEM VALUE VALUES ({-number}, "
                )
                for number, one in enumerate(taken(2000), 1)
            ),
        )


async def test_an_overdraft_is_a_rule_of_the_account(room: "Room", transfer: str) -> None:
    await room.sql("UPDATE payments.account SET overdraft = 10 WHERE account = 'provider:receivable'")
    try:
        for number, (minor, refused) in enumerate(((10, False), (1, True))):
            operation = f"op-{number}"
            await room.sql(
                "INSERT INTO payments.operation (operation_id, payment_id, kind, progress, amount)"
                " SELECT :id, payment_id, 'refund', 'done', :minor FROM payments.payment",
                id=operation,
                minor=minor,
            )
            work = commit(
                room,
                f"INSERT INTO payments.transfer VALUES ('{operation}', 'refund', now())",
                HALF.format(operation, "merchant:refunds", "USD", minor),
                HALF.format(operation, "provider:receivable", "USD", -minor),
            )
            if refused:
                with pytest.raises(DBAPIError, match="overdraws the account"):
                    await work
            else:
                await work
    finally:
        await room.sql("UPDATE payments.account SET overdraft = 0 WHERE account = 'provider:receivable'")
