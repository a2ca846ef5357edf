"""The SQL of payments. Each way through a payment is two statements: one before the provider is asked, one after.

Data-modifying WITH: all parts see the same snapshot and commit together, so each statement is a transaction.
"""

from typing import Final

from sqlalchemy import TextClause, text

from private_core.payments.domain import Kind
from private_core.storage.outbox import TOLD
from security.audit.attached import RECORDED

# What is made a Payment and an Operation; named, because what is not asked for need not be carried.
_PAYMENT: Final = (
    "payment_id, payment.order_id, payment.member_id, payment.state, payment.currency, payment.authorized,"
    " payment.captured, payment.refunded, payment.source_time"
)
_COLUMNS: Final = f"operation.operation_id, operation.kind, operation.progress, operation.amount, {_PAYMENT}"
_LIVE: Final = "('pending', 'authorized', 'captured')"

# What the statement that begins an operation hangs on: a new idempotency record; nothing, where there is an open one.
_NEW_INTENT: Final = """
    gate AS (
        INSERT INTO payments.idempotency (intent, body) VALUES (:intent, :body) ON CONFLICT DO NOTHING RETURNING intent
    )"""
_OPEN_INTENT: Final = "gate AS (SELECT 1)"

_HOLD: Final = f"""
    WITH {{gate}}, ready AS (
        INSERT INTO payments.payment (payment_id, order_id, state, currency, authorized, source_time)
        SELECT :payment_id, :order_id, 'pending', :currency, :amount, :source_time FROM gate
        ON CONFLICT (order_id) WHERE state IN {_LIVE} DO NOTHING RETURNING *
    ), operation AS (
        INSERT INTO payments.operation (operation_id, payment_id, kind, amount)
        SELECT :operation_id, payment_id, 'hold', authorized FROM ready RETURNING *
    )
    SELECT {{columns}} FROM operation JOIN ready AS payment USING (payment_id)
    """  # noqa: S608
_CAPTURE: Final = """
    WITH {gate}, ready AS (
        SELECT payment.* FROM payments.payment AS payment, gate
        WHERE payment_id = :payment_id AND state = 'authorized' AND (:owner = '' OR member_id = :owner)
    ), operation AS (
        INSERT INTO payments.operation (operation_id, payment_id, kind, amount)
        SELECT :operation_id, payment_id, 'capture', authorized FROM ready ON CONFLICT DO NOTHING RETURNING *
    )
    SELECT {columns} FROM operation JOIN ready AS payment USING (payment_id)
    """
_REFUND: Final = """
    WITH {gate}, ready AS (
        UPDATE payments.payment AS payment SET refunding = refunding + :amount FROM gate
        WHERE payment_id = :payment_id AND state = 'captured' AND (:owner = '' OR member_id = :owner)
            AND currency = :currency AND captured - refunded - refunding >= :amount
        RETURNING payment.*
    ), operation AS (
        INSERT INTO payments.operation (operation_id, payment_id, kind, amount)
        SELECT :operation_id, payment_id, 'refund', :amount FROM ready RETURNING *
    )
    SELECT {columns} FROM operation JOIN ready AS payment USING (payment_id)
    """
_BEGIN: Final = {Kind.HOLD: _HOLD, Kind.CAPTURE: _CAPTURE, Kind.REFUND: _REFUND}

# By kind. A row: go on and ask the provider. None: the intent is not new, or a rule is in the way; find out which.
BEGIN: Final[dict[Kind, TextClause]] = {
    kind: text(sql.format(gate=_NEW_INTENT, columns=_COLUMNS)) for kind, sql in _BEGIN.items()
}
BEGIN_AGAIN: Final[dict[Kind, TextClause]] = {
    kind: text(sql.format(gate=_OPEN_INTENT, columns=_COLUMNS)) for kind, sql in _BEGIN.items()
}

# The end of an operation: its progress, the payment, the postings, the stored answer and the audit record. Only while
# the payment still is what the answer was made from; no row otherwise.
FINISH: Final = text(
    f"""
    WITH locked AS (
        SELECT payment_id, source_time FROM payments.payment
        WHERE payment_id = :payment_id AND state = :state_before AND refunded = :refunded_before FOR UPDATE
    ), finished AS (
        UPDATE payments.operation AS operation SET progress = :progress, provider_id = :provider_id FROM locked
        WHERE operation.operation_id = :operation_id AND operation.progress = 'open'
        RETURNING operation.operation_id
    ), changed AS (
        UPDATE payments.payment AS payment
        SET state = :state, captured = :captured, refunded = :refunded, refunding = payment.refunding - :released,
            member_id = :member_id
        FROM locked, finished WHERE payment.payment_id = locked.payment_id
    ), posted AS (
        INSERT INTO payments.transfer (transfer_id, kind, source_time)
        SELECT finished.operation_id, :kind, locked.source_time FROM finished, locked WHERE :progress = 'done'
        RETURNING transfer_id
    ), postings AS (
        INSERT INTO payments.posting (transfer_id, account, currency, amount)
        SELECT posted.transfer_id, one.account, :currency, one.amount
        FROM posted, unnest(CAST(:accounts AS text[]), CAST(:amounts AS bigint[])) AS one (account, amount)
    ), settled AS (
        UPDATE payments.idempotency SET answer = :answer, refusal = :refusal FROM finished
        WHERE intent = :intent AND answer IS NULL AND refusal IS NULL
    ), told AS ({TOLD.format(of="finished")}), recorded AS ({RECORDED.format(of="finished")})
    SELECT operation_id FROM finished
    """  # noqa: S608
)

# Abandoned: older than the longest deadline of a call, so whoever began it is gone.
_OPERATION: Final = f"""
    SELECT {_COLUMNS}, operation.created_time < now() - interval '10 s' AS abandoned
    FROM payments.payment AS payment JOIN payments.operation AS operation USING (payment_id)
    WHERE {{where}}
    """  # noqa: S608
OPERATION: Final = text(_OPERATION.format(where="operation_id = :operation_id"))
HOLD_OF_ORDER: Final = text(_OPERATION.format(where=f"order_id = :order_id AND kind = 'hold' AND state IN {_LIVE}"))
OPEN_CAPTURE: Final = text(
    _OPERATION.format(where="payment_id = :payment_id AND kind = 'capture' AND progress = 'open'")
)

# What nobody finishes any more: begun longer ago than any call lives. The oldest first.
ABANDONED: Final = text(
    _OPERATION.format(where="progress = 'open' AND operation.created_time < now() - CAST(:age AS interval)")
    + " ORDER BY operation.created_time LIMIT :limit"
)

PAYMENT: Final = text(f"SELECT {_PAYMENT} FROM payments.payment AS payment WHERE payment_id = :payment_id")  # noqa: S608
PAYMENTS_OF_ORDER: Final = text(
    f"SELECT {_PAYMENT} FROM payments.payment AS payment"  # noqa: S608
    " WHERE order_id = :order_id ORDER BY payment_id DESC LIMIT 100"
)
BALANCES: Final = text(
    """
    SELECT account, currency, sum(amount) AS balance, count(*) AS postings FROM payments.posting
    GROUP BY account, currency ORDER BY account, currency
    """
)
# From the books, not from the payments: what was not posted was not captured.
CAPTURES: Final = text(
    """
    SELECT to_char(transfer.source_time AT TIME ZONE 'UTC', 'YYYY-MM') AS month, posting.currency,
        count(*) AS captures, -sum(posting.amount) AS amount
    FROM payments.transfer AS transfer JOIN payments.posting AS posting USING (transfer_id)
    WHERE transfer.kind = 'capture' AND posting.account = 'merchant:revenue' GROUP BY 1, 2 ORDER BY 1, 2
    """
)
