"""Since when an order is being cancelled, and finding those that nobody ends."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("ALTER TABLE orders.placed_order ADD COLUMN cancelling_time timestamptz")
    op.execute("UPDATE orders.placed_order SET cancelling_time = now() WHERE state = 'cancelling'")
    op.execute("CREATE INDEX order_undecided ON orders.placed_order (cancelling_time) WHERE state = 'cancelling'")


def downgrade() -> None:
    op.execute("DROP INDEX orders.order_undecided")
    op.execute("ALTER TABLE orders.placed_order DROP COLUMN cancelling_time")
