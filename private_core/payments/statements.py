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
    " payment.captured, payment.released, payment.refunded, payment.source_time, payment.expires_time"
)
_COLUMNS: Final = (
    f"operation.operation_id, operation.kind, operation.progress, operation.amount, operation.body, {_PAYMENT}"
)
_LIVE: Final = "('pending', 'authorized', 'captured')"

# What the statement that begins an operation hangs on: a new idempotency record whose key never named an operation
# (records go in time, operations stay); nothing, where there is an open record.
_NEW_INTENT: Final = """
    claimed AS (
        INSERT INTO payments.idempotency (intent, body) VALUES (:intent, :body) ON CONFLICT DO NOTHING RETURNING intent
    ), gate AS (
        SELECT intent FROM claimed
        WHERE NOT EXISTS (SELECT FROM payments.operation WHERE operation_id = :operation_id)
    )"""
_OPEN_INTENT: Final = "gate AS (SELECT 1)"
_OPERATION_OF_READY: Final = """
        INSERT INTO payments.operation (operation_id, payment_id, kind, amount, body)
        SELECT :operation_id, payment_id, :kind, {amount}, :body FROM ready ON CONFLICT DO NOTHING RETURNING *"""

_HOLD: Final = f"""
    WITH {{gate}}, ready AS (
        INSERT INTO payments.payment (payment_id, order_id, state, currency, authorized, source_time, expires_time)
        SELECT :payment_id, :order_id, 'pending', :currency, :amount, :source_time, :expires_time FROM gate
        ON CONFLICT (order_id) WHERE state IN {_LIVE} DO NOTHING RETURNING *
    ), operation AS ({_OPERATION_OF_READY.format(amount="authorized")})
    SELECT {{columns}} FROM operation JOIN ready AS payment USING (payment_id)
    """  # noqa: S608
# A capture or a release: of :amount, or of all that is left. The lock makes it see what the one before it has left; the
# open operation, of which a hold has one at most, keeps others away while the provider is asked.
_AT_THE_HOLD: Final = f"""
    WITH {{gate}}, ready AS (
        SELECT payment.* FROM payments.payment AS payment, gate
        WHERE payment_id = :payment_id AND state = 'authorized' AND (:owner = '' OR member_id = :owner)
            AND (CAST(:amount AS bigint) IS NULL
                OR (:amount <= authorized - captured - released AND currency = :currency))
        FOR UPDATE OF payment
    ), operation AS (
        {_OPERATION_OF_READY.format(amount="coalesce(:amount, authorized - captured - released)")}
    )
    SELECT {{columns}} FROM operation JOIN ready AS payment USING (payment_id)
    """  # noqa: S608
_REFUND: Final = f"""
    WITH {{gate}}, ready AS (
        UPDATE payments.payment AS payment SET refunding = refunding + :amount FROM gate
        WHERE payment_id = :payment_id AND state IN ('authorized', 'captured') AND (:owner = '' OR member_id = :owner)
            AND currency = :currency AND captured - refunded - refunding >= :amount
        RETURNING payment.*
    ), operation AS ({_OPERATION_OF_READY.format(amount=":amount")})
    SELECT {{columns}} FROM operation JOIN ready AS payment USING (payment_id)
    """  # noqa: S608
_BEGIN: Final = {Kind.HOLD: _HOLD, Kind.CAPTURE: _AT_THE_HOLD, Kind.VOID: _AT_THE_HOLD, Kind.REFUND: _REFUND}

# By kind. A row: go on and ask the provider. None: the intent is not new, or a rule is in the way; find out which.
BEGIN: Final[dict[Kind, TextClause]] = {
    kind: text(sql.format(gate=_NEW_INTENT, columns=_COLUMNS)) for kind, sql in _BEGIN.items()
}
BEGIN_AGAIN: Final[dict[Kind, TextClause]] = {
    kind: text(sql.format(gate=_OPEN_INTENT, columns=_COLUMNS)) for kind, sql in _BEGIN.items()
}

# Of holds whose time is over, at which nobody is: begins the release of what is left. Named after the payment, so that
# there is one for each. Those that cannot begin are left out before the limit, or else they would keep others from it.
BEGIN_EXPIRY: Final = text(
    f"""
    WITH ready AS (
        SELECT * FROM payments.payment AS payment WHERE state = 'authorized' AND expires_time < now() AND NOT EXISTS (
            SELECT FROM payments.operation WHERE operation.payment_id = payment.payment_id
                AND (kind = 'expire' OR (kind IN ('capture', 'void') AND progress = 'open'))
        )
        ORDER BY expires_time LIMIT :limit FOR UPDATE SKIP LOCKED
    ), operation AS (
        INSERT INTO payments.operation (operation_id, payment_id, kind, amount)
        SELECT 'expiry-' || payment_id, payment_id, 'expire', authorized - captured - released FROM ready
        ON CONFLICT DO NOTHING RETURNING *
    )
    SELECT {_COLUMNS} FROM operation JOIN ready AS payment USING (payment_id)
    """  # noqa: S608
)

# The end of an operation: its progress, the payment, the postings, the order's state and its goods, the stored answer,
# the event and the audit record. Only while the payment still is what the answer was made from; no row otherwise.
FINISH: Final = text(
    f"""
    WITH locked AS (
        SELECT payment_id, source_time FROM payments.payment
        WHERE payment_id = :payment_id AND state = :state_before AND captured = :captured_before
            AND released = :released_before AND refunded = :refunded_before FOR UPDATE
    ), finished AS (
        UPDATE payments.operation AS operation SET progress = :progress, provider_id = :provider_id FROM locked
        WHERE operation.operation_id = :operation_id AND operation.progress = 'open'
        RETURNING operation.operation_id
    ), changed AS (
        UPDATE payments.payment AS payment
        SET state = :state, captured = :captured, released = :released, refunded = :refunded,
            refunding = payment.refunding - :no_longer_refunding, member_id = :member_id
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
    SELECT operation_id, orders.follow_payment(:order_id, :state) AS order_state FROM finished
    """  # noqa: S608
)

_OPERATION: Final = f"""
    SELECT {_COLUMNS} FROM payments.payment AS payment JOIN payments.operation AS operation USING (payment_id)
    WHERE {{where}}
    """  # noqa: S608
OPERATION: Final = text(_OPERATION.format(where="operation_id = :operation_id"))

# What nobody finishes any more: begun longer ago than any call lives. By chance: what waits for its payer for hours, or
# for a silent provider, must not keep the others from their turn.
ABANDONED: Final = text(
    _OPERATION.format(where="progress = 'open' AND operation.created_time < now() - CAST(:age AS interval)")
    + " ORDER BY random() LIMIT :limit"
)

PAYMENT: Final = text(f"SELECT {_PAYMENT} FROM payments.payment AS payment WHERE payment_id = :payment_id")  # noqa: S608
LIVE_PAYMENT: Final = text(
    f"SELECT {_PAYMENT} FROM payments.payment AS payment WHERE order_id = :order_id AND state IN {_LIVE}"  # noqa: S608
)
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
