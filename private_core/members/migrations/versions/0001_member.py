"""Members and their data keys."""

from alembic import op

from private_core.storage.idempotency import CREATE_TABLE

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE members.member (
            member_id text PRIMARY KEY,
            -- HMAC of the phone number: equality without the number.
            phone_index bytea NOT NULL UNIQUE CHECK (octet_length(phone_index) = 32),
            -- Envelopes.
            phone bytea NOT NULL,
            name bytea NOT NULL,
            address bytea NOT NULL,
            registered_time timestamptz NOT NULL
        )
        """
    )
    op.execute(
        """
        CREATE TABLE members.data_key (
            subject text PRIMARY KEY,
            key_id bytea NOT NULL UNIQUE CHECK (octet_length(key_id) = 16),
            kek_id text NOT NULL,
            kek_version integer NOT NULL CHECK (kek_version > 0),
            wrapped bytea NOT NULL
        )
        """
    )
    # Which KEKs are in use, and how far a rotation is.
    op.execute("CREATE INDEX ON members.data_key (kek_id, kek_version)")
    op.execute(CREATE_TABLE.format(schema="members"))


def downgrade() -> None:
    op.execute("DROP TABLE members.idempotency, members.data_key, members.member")
