"""Consent by purpose: what a member gave and withdrew, each with its time, and never changed."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE members.consent (
            consent_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            member_id text NOT NULL REFERENCES members.member,
            purpose text NOT NULL CHECK (purpose IN ('account', 'delivery', 'support', 'analytics', 'marketing')),
            granted boolean NOT NULL,
            given_time timestamptz NOT NULL
        )
        """
    )
    op.execute("CREATE INDEX ON members.consent (member_id, purpose, consent_id DESC)")


def downgrade() -> None:
    op.execute("DROP TABLE members.consent")
