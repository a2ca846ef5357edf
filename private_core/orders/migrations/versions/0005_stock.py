"""Goods that are counted, and orders that follow their payments.

Payments calls `follow_payment` in the transaction that posts, so the order's state and its goods change with the
postings or not at all. It is the one thing of this schema that another room may use.
"""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE orders.stock (
            sku text PRIMARY KEY,
            on_hand bigint NOT NULL CHECK (on_hand >= 0),
            reserved bigint NOT NULL DEFAULT 0 CHECK (reserved >= 0),
            -- Whatever the statements do: no piece is promised twice.
            CONSTRAINT not_oversold CHECK (reserved <= on_hand)
        )
        """
    )
    # Whether pieces were reserved for the line: goods may be counted only after they were ordered.
    op.execute("ALTER TABLE orders.line ADD COLUMN reserved boolean NOT NULL DEFAULT false")
    op.execute(
        """
        ALTER TABLE orders.placed_order
            DROP CONSTRAINT placed_order_state_check,
            ADD CONSTRAINT placed_order_state_check CHECK (
                state IN ('placed', 'cancelling', 'cancelled', 'authorized', 'captured', 'refunded')
            )
        """
    )
    op.execute("CREATE INDEX order_unpaid ON orders.placed_order (placed_time) WHERE state = 'placed'")
    op.execute(
        """
        CREATE FUNCTION orders.end_reservation(ordered text, sold boolean) RETURNS void LANGUAGE plpgsql AS $$
        BEGIN
            -- In one order, so that two orders of the same goods never wait for each other.
            PERFORM FROM orders.stock WHERE sku IN (SELECT sku FROM orders.line WHERE order_id = ordered AND reserved)
            ORDER BY sku FOR UPDATE;
            UPDATE orders.stock SET reserved = stock.reserved - ended.quantity,
                on_hand = stock.on_hand - CASE WHEN sold THEN ended.quantity ELSE 0 END
            FROM (
                SELECT sku, sum(quantity) AS quantity FROM orders.line
                WHERE order_id = ordered AND reserved GROUP BY sku
            ) AS ended
            WHERE stock.sku = ended.sku;
            UPDATE orders.line SET reserved = false WHERE order_id = ordered AND reserved;
        END $$
        """
    )
    op.execute(
        """
        CREATE FUNCTION orders.follow_payment(ordered text, payment_state text) RETURNS text
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = orders, pg_temp AS $$
        DECLARE
            was text;
            becomes text;
        BEGIN
            SELECT state INTO was FROM orders.placed_order WHERE order_id = ordered FOR UPDATE;
            becomes := CASE
                WHEN payment_state = 'authorized' AND was IN ('placed', 'cancelling') THEN 'authorized'
                WHEN payment_state IN ('voided', 'expired') AND was = 'authorized' THEN 'placed'
                WHEN payment_state = 'captured' AND was = 'authorized' THEN 'captured'
                WHEN payment_state = 'refunded' AND was IN ('authorized', 'captured') THEN 'refunded'
                ELSE was
            END;
            IF becomes IS DISTINCT FROM was THEN
                IF was = 'authorized' AND becomes IN ('captured', 'refunded') THEN
                    PERFORM orders.end_reservation(ordered, true);
                END IF;
                UPDATE orders.placed_order SET state = becomes, version = version + 1 WHERE order_id = ordered;
            END IF;
            RETURN becomes;
        END $$
        """
    )
