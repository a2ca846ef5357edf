"""Find rows by the time of their acceptance, for their retention. Block ranges cost an insert next to nothing."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE INDEX impression_by_time ON warehouse.impression USING brin (accepted_time);
        CREATE INDEX content_view_by_time ON warehouse.content_view USING brin (accepted_time);
        CREATE INDEX spool_ledger_by_time ON warehouse.spool_ledger USING brin (accepted_time);
    """)
