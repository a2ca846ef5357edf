"""What the rooms of the private core tell of orders and payments: the newest state of each."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE warehouse.purchase (
            order_id text PRIMARY KEY,
            member_id text NOT NULL,
            state text NOT NULL,
            total_minor bigint NOT NULL,
            currency text NOT NULL,
            -- The impression whose ad was followed to the shop; compare with click.impression_id.
            click_id uuid,
            source_time timestamptz,
            placed_time timestamptz,
            landed_time timestamptz NOT NULL DEFAULT clock_timestamp()
        );
        CREATE TABLE warehouse.payment (
            payment_id text PRIMARY KEY,
            order_id text NOT NULL,
            state text NOT NULL,
            currency text NOT NULL,
            authorized_minor bigint NOT NULL,
            captured_minor bigint NOT NULL,
            refunded_minor bigint NOT NULL,
            source_time timestamptz,
            landed_time timestamptz NOT NULL DEFAULT clock_timestamp()
        );
        CREATE INDEX payment_by_order ON warehouse.payment (order_id);
    """)
