"""Dead letters that can be settled, the bridge's side of the ledger of conservation, and the flow inward."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        ALTER TABLE bridge.dead_letter
            ADD COLUMN state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'replayed', 'dropped')),
            ADD COLUMN settled_time timestamptz,
            ADD COLUMN reason text NOT NULL DEFAULT '';
        CREATE INDEX dead_letter_open ON bridge.dead_letter (dead_letter_id) WHERE state = 'open';
    """)
    # What became of the records of one minute of acceptance. Each changes in the transaction of the rows it counts.
    # A dead letter that is replayed moves from the one count to the other, so the sum stays what was read from Kafka.
    op.execute("""
        CREATE TABLE bridge.ledger (
            node text NOT NULL,
            topic text NOT NULL,
            partition integer NOT NULL,
            minute timestamptz NOT NULL,
            landed bigint NOT NULL DEFAULT 0,
            duplicates bigint NOT NULL DEFAULT 0,
            dead_letters bigint NOT NULL DEFAULT 0,
            PRIMARY KEY (node, topic, partition, minute)
        ) WITH (fillfactor = 50);
        CREATE INDEX ledger_by_minute ON bridge.ledger (minute);
    """)
    # What operators want of the flow inward; one row. 0 records a second: no bound.
    op.execute("""
        CREATE TABLE bridge.flow (
            one_row boolean PRIMARY KEY DEFAULT true CHECK (one_row),
            paused boolean NOT NULL DEFAULT false,
            records_per_s_max integer NOT NULL DEFAULT 0 CHECK (records_per_s_max >= 0)
        );
        INSERT INTO bridge.flow DEFAULT VALUES;
    """)
