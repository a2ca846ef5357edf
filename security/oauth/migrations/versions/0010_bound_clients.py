"""Clients whose tokens are always bound to a key or a certificate."""

import sqlalchemy as sa
from alembic import op

revision = "oauth_0010"
down_revision = "oauth_0009"
branch_labels = None
depends_on = None

SCHEMA = "oauth"


def upgrade() -> None:
    unbound = sa.Column("bound", sa.Boolean, nullable=False, server_default=sa.false())
    op.add_column("clients", unbound, schema=SCHEMA)


def downgrade() -> None:
    op.drop_column("clients", "bound", schema=SCHEMA)
