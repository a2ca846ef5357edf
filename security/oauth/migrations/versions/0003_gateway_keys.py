"""The public keys that gateways sign inner tokens with."""

import sqlalchemy as sa
from alembic import op

revision = "oauth_0003"
down_revision = "oauth_0002"
branch_labels = None
depends_on = None

SCHEMA = "oauth"


def upgrade() -> None:
    op.create_table(
        "gateway_keys",
        sa.Column("kid", sa.Text, primary_key=True),
        sa.Column("jwk", sa.Text, nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        schema=SCHEMA,
    )


def downgrade() -> None:
    op.drop_table("gateway_keys", schema=SCHEMA)
