"""Orders in PostgreSQL. Every change is one statement, so one transaction and one round trip."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Final

from psycopg.errors import CheckViolation
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh.database.engine import execute, transact
from private_core.money import Money
from private_core.orders.domain import Line, Month, Order, State, Stock, sold_out, stock_reserved
from private_core.orders.messages import order_changed
from private_core.storage import outbox
from private_core.storage.idempotency import Answer, Idempotency, Intent
from private_core.storage.outbox import TOLD
from private_core.times import to_datetime, to_us
from private_core.translation import error_of
from security.audit import attached
from security.audit.attached import RECORDED

_PLACE: Final = text(
    f"""
    WITH claimed AS (
        INSERT INTO orders.idempotency (intent, body, answer) VALUES (:intent, :body, :answer)
        ON CONFLICT DO NOTHING RETURNING intent
    ), wanted AS (
        SELECT sku, sum(quantity)::bigint AS quantity
        FROM claimed, unnest(CAST(:skus AS text[]), CAST(:quantities AS integer[])) AS one (sku, quantity) GROUP BY sku
    ), counted AS (
        -- In one order, so that two orders of the same goods never wait for each other.
        SELECT sku, wanted.quantity FROM orders.stock JOIN wanted USING (sku) ORDER BY sku FOR UPDATE OF stock
    ), reserved AS (
        UPDATE orders.stock SET reserved = stock.reserved + counted.quantity
        FROM counted WHERE stock.sku = counted.sku RETURNING stock.sku
    ), placed AS (
        INSERT INTO orders.placed_order
            (order_id, member_id, state, total_minor, currency, source_time, placed_time, click_id)
        SELECT :order_id, :member_id, 'placed', :total, :currency, :source_time, :placed_time,
            CAST(nullif(:click_id, '') AS uuid)
        FROM claimed RETURNING order_id
    ), lines AS (
        INSERT INTO orders.line (order_id, position, sku, quantity, amount_minor, reserved)
        SELECT placed.order_id, line.position, line.sku, line.quantity, line.amount,
            line.sku IN (SELECT sku FROM reserved)
        FROM placed, unnest(CAST(:skus AS text[]), CAST(:quantities AS integer[]), CAST(:amounts AS bigint[]))
            WITH ORDINALITY AS line (sku, quantity, amount, position)
    ), told AS ({TOLD.format(of="placed")}), recorded AS ({RECORDED.format(of="placed")})
    SELECT order_id FROM placed
    """  # noqa: S608
)
_READ: Final = text(
    """
    SELECT placed.order_id, placed.member_id, placed.state, placed.total_minor, placed.currency, placed.source_time,
        placed.placed_time, placed.click_id, line.sku, line.quantity, line.amount_minor
    FROM orders.placed_order AS placed JOIN orders.line AS line USING (order_id)
    WHERE placed.order_id = :order_id ORDER BY line.position
    """
)
_BEGIN_CANCEL: Final = text(
    """
    UPDATE orders.placed_order SET state = 'cancelling', version = version + 1, cancelling_time = now()
    WHERE order_id = :order_id AND state IN ('placed', 'cancelling') RETURNING version
    """
)
_END_CANCEL: Final = text(
    f"""
    WITH ended AS (
        UPDATE orders.placed_order SET state = :state, version = version + 1
        WHERE order_id = :order_id AND state = 'cancelling' AND version = :version RETURNING version
    ), told AS ({TOLD.format(of="ended WHERE :state = 'cancelled'")})
    SELECT version, CASE WHEN :state = 'cancelled' THEN orders.end_reservation(:order_id, false) END AS freed FROM ended
    """  # noqa: S608
)
_BEGIN_UNPAID: Final = text(
    """
    UPDATE orders.placed_order SET state = 'cancelling', version = version + 1, cancelling_time = now()
    WHERE order_id = ANY(ARRAY(
        SELECT order_id FROM orders.placed_order
        WHERE state = 'placed' AND placed_time < now() - CAST(:age AS interval)
        ORDER BY placed_time LIMIT :limit FOR UPDATE SKIP LOCKED
    )) AND state = 'placed' RETURNING order_id, version
    """
)
_UNDECIDED: Final = text(
    """
    SELECT order_id, version FROM orders.placed_order
    WHERE state = 'cancelling' AND cancelling_time < now() - CAST(:age AS interval)
    ORDER BY cancelling_time LIMIT :limit
    """
)
_STOCK: Final = text("SELECT sku, on_hand, reserved FROM orders.stock WHERE sku = :sku")
_COUNT: Final = text("INSERT INTO orders.stock (sku, on_hand) VALUES (:sku, 0) ON CONFLICT DO NOTHING")
_ADJUST: Final = text(
    "UPDATE orders.stock SET on_hand = on_hand + :change WHERE sku = :sku RETURNING sku, on_hand, reserved"
)
_TOO_FEW: Final = frozenset({"not_oversold", "stock_on_hand_check"})
_MONTHS: Final = text(
    """
    SELECT to_char(source_time AT TIME ZONE 'UTC', 'YYYY-MM') AS month, currency,
        count(*) AS orders, sum(total_minor) AS total_minor
    FROM orders.placed_order WHERE state <> 'cancelled' GROUP BY 1, 2 ORDER BY 1, 2
    """
)


class OrderStore:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._idempotency = Idempotency("orders")

    async def place(self, intent: Intent, order: Order, answer: Answer) -> Answer:
        """Store the order with its answer and reserve its goods, or nothing when the intent was answered before.

        Returns the first answer, which is a refusal when there is not enough of the goods.
        """
        parameters = {
            "intent": intent.id,
            "body": intent.body,
            "answer": answer.answer,
            "order_id": order.order_id,
            "member_id": order.member_id,
            "total": order.total.minor,
            "currency": order.total.currency,
            "source_time": to_datetime(order.source_time_us),
            "placed_time": to_datetime(order.placed_time_us),
            "skus": [line.sku for line in order.lines],
            "quantities": [line.quantity for line in order.lines],
            "amounts": [line.amount.minor for line in order.lines],
            "click_id": order.click_id,
        }
        told = outbox.parameters(order_changed(order))
        try:
            placed = await execute(self._engine, _PLACE, parameters | told | answer.audited)
        except CheckViolation as broken:
            if broken.diag.constraint_name not in _TOO_FEW:
                raise
            return await self.refuse(intent, Answer.of(error_of(sold_out())))
        if placed:
            attached.committed()
            return answer
        return await self.refuse(intent, answer)

    async def refuse(self, intent: Intent, answer: Answer) -> Answer:
        """Store the answer alone. Returns the first answer to the intent, which may be an earlier one."""
        return await transact(self._engine, lambda tx: self._idempotency.claim(tx, intent, answer)) or answer

    async def read(self, order_id: str) -> Order | None:
        rows = await execute(self._engine, _READ, {"order_id": order_id})
        return _order(rows) if rows else None

    async def begin_cancel(self, order_id: str) -> int | None:
        """Bar new payments of the order. Returns the version to end with; None when it is cancelled already."""
        rows = await execute(self._engine, _BEGIN_CANCEL, {"order_id": order_id})
        return rows[0].version if rows else None

    async def end_cancel(self, order: Order, version: int) -> bool:
        """Leave the order in its state. False when another call changed it since `begin_cancel`."""
        parameters = {"order_id": order.order_id, "version": version, "state": order.state.value}
        return bool(await execute(self._engine, _END_CANCEL, parameters | outbox.parameters(order_changed(order))))

    async def undecided(self, age_s: float, limit: int) -> list[tuple[str, int]]:
        """Orders that have been `cancelling` for longer than `age_s`, each with the version to end it with."""
        rows = await execute(self._engine, _UNDECIDED, {"age": timedelta(seconds=age_s), "limit": limit})
        return [(row.order_id, row.version) for row in rows]

    async def begin_unpaid(self, age_s: float, limit: int) -> list[tuple[str, int]]:
        """Bar payments of orders that nobody has paid for `age_s`, each with the version to end it with."""
        rows = await execute(self._engine, _BEGIN_UNPAID, {"age": timedelta(seconds=age_s), "limit": limit})
        return [(row.order_id, row.version) for row in rows]

    async def stock(self, sku: str) -> Stock | None:
        rows = await execute(self._engine, _STOCK, {"sku": sku})
        return Stock(*rows[0]) if rows else None

    async def adjust(self, intent: Intent, sku: str, change: int, say: Callable[[Stock], Answer]) -> Answer:
        """Change how many pieces there are. Returns the first answer, a refusal when fewer than reserved would stay."""

        async def work(tx: AsyncConnection) -> Answer:
            earlier = await self._idempotency.claim(tx, intent)
            if earlier is not None:
                return earlier
            await tx.execute(_COUNT, {"sku": sku})
            row = (await tx.execute(_ADJUST, {"sku": sku, "change": change})).one()
            answer = say(Stock(*row))
            await self._idempotency.settle(tx, intent, answer)
            return answer

        try:
            return await transact(self._engine, work)
        except IntegrityError as error:
            if not isinstance(error.orig, CheckViolation) or error.orig.diag.constraint_name not in _TOO_FEW:
                raise
            return await self.refuse(intent, Answer.of(error_of(stock_reserved())))

    async def months(self) -> list[Month]:
        rows = await execute(self._engine, _MONTHS)
        return [Month(row.month, row.orders, Money(int(row.total_minor), row.currency)) for row in rows]


def _order(rows: Sequence[Any]) -> Order:
    first = rows[0]
    return Order(
        order_id=first.order_id,
        member_id=first.member_id,
        state=State(first.state),
        lines=tuple(Line(row.sku, row.quantity, Money(row.amount_minor, first.currency)) for row in rows),
        total=Money(first.total_minor, first.currency),
        source_time_us=to_us(first.source_time),
        placed_time_us=to_us(first.placed_time),
        click_id=first.click_id.hex if first.click_id else "",
    )
