"""Orders, their lines, and the idempotency records of the room."""

from alembic import op

from private_core.storage.idempotency import CREATE_TABLE

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute(CREATE_TABLE.format(schema="orders"))
    op.execute(
        """
        CREATE TABLE orders.placed_order (
            order_id text PRIMARY KEY,
            member_id text NOT NULL,
            state text NOT NULL CHECK (state IN ('placed', 'cancelling', 'cancelled')),
            -- Goes up with every change of state: a change begun on an older version cannot end.
            version bigint NOT NULL DEFAULT 0,
            total_minor bigint NOT NULL CHECK (total_minor >= 0),
            currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
            source_time timestamptz NOT NULL,
            placed_time timestamptz NOT NULL
        )
        """
    )
    op.execute(
        """
        CREATE TABLE orders.line (
            order_id text NOT NULL REFERENCES orders.placed_order,
            position integer NOT NULL,
            sku text NOT NULL,
            quantity integer NOT NULL CHECK (quantity >= 1),
            amount_minor bigint NOT NULL CHECK (amount_minor >= 0),
            PRIMARY KEY (order_id, position)
        )
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE orders.line, orders.placed_order, orders.idempotency")
