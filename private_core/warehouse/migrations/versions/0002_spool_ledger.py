"""What the spools of the edge say of themselves: their side of the ledger of conservation."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE warehouse.spool_ledger (
            event_id uuid PRIMARY KEY,
            accepted_time timestamptz NOT NULL,
            node text NOT NULL,
            spool text NOT NULL,
            minute timestamptz NOT NULL,
            topic text,
            partition integer NOT NULL,
            sent bigint NOT NULL,
            shed bigint NOT NULL,
            refused bigint NOT NULL,
            set_aside bigint NOT NULL,
            damaged bigint NOT NULL,
            trace_id uuid,
            record_partition integer NOT NULL,
            record_offset bigint NOT NULL,
            landed_time timestamptz NOT NULL DEFAULT clock_timestamp()
        );
        CREATE INDEX spool_ledger_by_minute ON warehouse.spool_ledger (minute);
    """)
