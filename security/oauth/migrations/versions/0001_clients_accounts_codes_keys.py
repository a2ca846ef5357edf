"""Clients, accounts, authorization codes and signing keys."""

import sqlalchemy as sa
from alembic import op

revision = "oauth_0001"
down_revision = None
branch_labels = None
depends_on = None

SCHEMA = "oauth"


def upgrade() -> None:
    op.create_table(
        "clients",
        sa.Column("client_id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("secret_hash", sa.Text),
        sa.Column("grants", sa.ARRAY(sa.Text), nullable=False),
        sa.Column("scopes", sa.ARRAY(sa.Text), nullable=False),
        sa.Column("redirect_uris", sa.ARRAY(sa.Text), nullable=False),
        schema=SCHEMA,
    )
    op.create_table(
        "accounts",
        sa.Column("member_id", sa.Text, primary_key=True),
        sa.Column("login", sa.Text, nullable=False, unique=True),
        sa.Column("password_hash", sa.Text, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("locked_until", sa.DateTime(timezone=True)),
        schema=SCHEMA,
    )
    op.create_table(
        "codes",
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column("client_id", sa.Text, sa.ForeignKey(f"{SCHEMA}.clients.client_id"), nullable=False),
        sa.Column("member_id", sa.Text, sa.ForeignKey(f"{SCHEMA}.accounts.member_id"), nullable=False),
        sa.Column("redirect_uri", sa.Text, nullable=False),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("challenge", sa.Text, nullable=False),
        sa.Column("signed_in_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        schema=SCHEMA,
    )
    op.create_index("codes_by_expiry", "codes", ["expires_at"], schema=SCHEMA)
    op.create_table(
        "signing_keys",
        sa.Column("kid", sa.Text, primary_key=True),
        sa.Column("jwk", sa.Text, nullable=False),
        sa.Column("wrapped", sa.LargeBinary, nullable=False),
        sa.Column("kek_id", sa.Text, nullable=False),
        sa.Column("kek_version", sa.Integer, nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=False),
        sa.Column("retire_at", sa.DateTime(timezone=True), nullable=False),
        schema=SCHEMA,
    )


def downgrade() -> None:
    for table in ("signing_keys", "codes", "accounts", "clients"):
        op.drop_table(table, schema=SCHEMA)
