"""ID tokens: what a client will know its own request by, kept with the code."""

import sqlalchemy as sa
from alembic import op

revision = "oauth_0008"
down_revision = "oauth_0007"
branch_labels = None
depends_on = None

SCHEMA = "oauth"


def upgrade() -> None:
    op.add_column("codes", sa.Column("nonce", sa.Text, nullable=False, server_default=""), schema=SCHEMA)


def downgrade() -> None:
    op.drop_column("codes", "nonce", schema=SCHEMA)
