"""Find what the rooms told by when they last told it, for its retention."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE INDEX purchase_by_landing ON warehouse.purchase USING brin (landed_time);
        CREATE INDEX payment_by_landing ON warehouse.payment USING brin (landed_time);
    """)
