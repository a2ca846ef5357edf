"""Checkpoints of the inward partitions, and dead letters of both directions."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    # `epoch` grows each time a worker takes the partition; a worker that holds an older one can write nothing.
    # `topic_id` is the broker's own id of the topic: a topic made anew has another one, though it has the same name.
    op.execute("""
        CREATE TABLE bridge.checkpoint (
            topic text NOT NULL,
            partition integer NOT NULL,
            topic_id text NOT NULL,
            epoch bigint NOT NULL,
            worker text NOT NULL,
            next_offset bigint NOT NULL,
            landed bigint NOT NULL DEFAULT 0,
            duplicates bigint NOT NULL DEFAULT 0,
            dead_letters bigint NOT NULL DEFAULT 0,
            changed_time timestamptz NOT NULL DEFAULT clock_timestamp(),
            PRIMARY KEY (topic, partition)
        ) WITH (fillfactor = 50)
    """)
    # `position` is the record's offset (inward) or the outbox row's seq (outward, where partition is absent).
    op.execute("""
        CREATE TABLE bridge.dead_letter (
            dead_letter_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            direction text NOT NULL CHECK (direction IN ('inward', 'outward')),
            topic text NOT NULL,
            partition integer,
            position bigint NOT NULL,
            kind text,
            cause text NOT NULL,
            detail text NOT NULL,
            record_key bytea,
            headers jsonb NOT NULL DEFAULT '[]',
            payload bytea,
            attempts integer NOT NULL DEFAULT 1,
            record_time timestamptz,
            buried_time timestamptz NOT NULL DEFAULT clock_timestamp()
        );
        CREATE INDEX dead_letter_by_record ON bridge.dead_letter (topic, partition, position);
    """)
    # What other rooms may read.
    op.execute("""
        CREATE VIEW bridge.landing AS
        SELECT topic, partition, next_offset, landed, duplicates, dead_letters, changed_time FROM bridge.checkpoint
    """)
