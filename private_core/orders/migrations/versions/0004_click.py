"""Which ad an order came from."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute("ALTER TABLE orders.placed_order ADD COLUMN click_id uuid")


def downgrade() -> None:
    op.execute("ALTER TABLE orders.placed_order DROP COLUMN click_id")
