"""Who is one person: identifiers as keyed hashes, and merges, of which each can be undone."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE members.identifier (
            kind text NOT NULL CHECK (kind IN ('device', 'phone', 'openid', 'unionid')),
            -- HMAC of the normalised identifier: equality without it.
            value_index bytea NOT NULL CHECK (octet_length(value_index) = 32),
            member_id text NOT NULL REFERENCES members.member,
            linked_time timestamptz NOT NULL,
            PRIMARY KEY (kind, value_index)
        )
        """
    )
    op.execute("CREATE INDEX ON members.identifier (member_id)")
    # A split ends the row and removes nothing: who was taken for whom, and when, stays known.
    op.execute(
        """
        CREATE TABLE members.merge (
            merge_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            merged text NOT NULL REFERENCES members.member,
            kept text NOT NULL REFERENCES members.member CHECK (kept <> merged),
            merged_time timestamptz NOT NULL,
            split_time timestamptz
        )
        """
    )
    op.execute("CREATE UNIQUE INDEX merge_in_force ON members.merge (merged) WHERE split_time IS NULL")
    op.execute("CREATE INDEX ON members.merge (kept) WHERE split_time IS NULL")


def downgrade() -> None:
    op.execute("DROP TABLE members.merge, members.identifier")
