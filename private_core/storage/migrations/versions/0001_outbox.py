"""The outbox: what committed here and must still be told to the public zone."""

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE outbox.event (
            seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            topic text NOT NULL,
            key text NOT NULL,
            -- NULL: a tombstone, the entity is gone.
            payload bytea,
            traceparent text NOT NULL DEFAULT '',
            created_time timestamptz NOT NULL DEFAULT now()
        )
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE outbox.event")
