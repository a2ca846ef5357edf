"""Families of refresh tokens, revocations, proofs that were used, and how clients prove themselves."""

import sqlalchemy as sa
from alembic import op

revision = "oauth_0002"
down_revision = "oauth_0001"
branch_labels = None
depends_on = None

SCHEMA = "oauth"


def upgrade() -> None:
    op.add_column("clients", sa.Column("authentication", sa.Text, nullable=False, server_default="none"), schema=SCHEMA)
    op.execute("UPDATE oauth.clients SET authentication = 'client_secret' WHERE secret_hash IS NOT NULL")
    op.add_column("clients", sa.Column("jwks", sa.Text), schema=SCHEMA)
    op.add_column("clients", sa.Column("spiffe_id", sa.Text), schema=SCHEMA)
    # A code lives for a minute: those that wait now are lost, and their holders sign in again.
    op.execute("DELETE FROM oauth.codes")
    op.add_column("codes", sa.Column("family_id", sa.Text, nullable=False), schema=SCHEMA)
    op.add_column("codes", sa.Column("taken", sa.Boolean, nullable=False, server_default=sa.false()), schema=SCHEMA)
    op.create_table(
        "families",
        sa.Column("family_id", sa.Text, primary_key=True),
        sa.Column("client_id", sa.Text, sa.ForeignKey(f"{SCHEMA}.clients.client_id"), nullable=False),
        sa.Column("member_id", sa.Text, nullable=False),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("signed_in_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.Column("key_thumbprint", sa.Text),
        schema=SCHEMA,
    )
    op.create_index("families_by_member", "families", ["member_id"], schema=SCHEMA)
    op.create_index("families_by_expiry", "families", ["expires_at"], schema=SCHEMA)
    op.create_table(
        "refresh_tokens",
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column(
            "family_id",
            sa.Text,
            sa.ForeignKey(f"{SCHEMA}.families.family_id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True)),
        sa.Column("successor", sa.LargeBinary),
        sa.Column("answer", sa.LargeBinary),
        schema=SCHEMA,
    )
    op.create_index("refresh_tokens_by_family", "refresh_tokens", ["family_id"], schema=SCHEMA)
    op.create_index("refresh_tokens_by_expiry", "refresh_tokens", ["expires_at"], schema=SCHEMA)
    op.create_table(
        "revocations",
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        schema=SCHEMA,
    )
    op.create_index("revocations_by_end", "revocations", ["until"], schema=SCHEMA)
    op.create_table(
        "proofs",
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        schema=SCHEMA,
    )
    op.create_index("proofs_by_expiry", "proofs", ["expires_at"], schema=SCHEMA)


def downgrade() -> None:
    for table in (
        "proofs",
        "revocations",
        "refresh_tokens",
        "families",
    ):
        op.drop_table(table, schema=SCHEMA)
    for table, column in (
        ("codes", "taken"),
        ("codes", "family_id"),
        ("clients", "spiffe_id"),
        ("clients", "jwks"),
        ("clients", "authentication"),
    ):
        op.drop_column(table, column, schema=SCHEMA)
