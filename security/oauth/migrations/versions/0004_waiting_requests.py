"""Pushed authorization requests, and device codes."""

import sqlalchemy as sa
from alembic import op

revision = "oauth_0004"
down_revision = "oauth_0003"
branch_labels = None
depends_on = None

SCHEMA = "oauth"


def upgrade() -> None:
    op.create_table(
        "pushed_requests",
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column("client_id", sa.Text, nullable=False),
        sa.Column("parameters", sa.Text, nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        schema=SCHEMA,
    )
    op.create_index("pushed_requests_by_expiry", "pushed_requests", ["expires_at"], schema=SCHEMA)
    op.create_table(
        "device_codes",
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column("user_code", sa.Text, nullable=False, unique=True),
        sa.Column("client_id", sa.Text, nullable=False),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("family_id", sa.Text, nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True)),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("allowed", sa.Boolean),
        sa.Column("member_id", sa.Text),
        sa.Column("signed_in_at", sa.DateTime(timezone=True)),
        schema=SCHEMA,
    )
    op.create_index("device_codes_by_expiry", "device_codes", ["expires_at"], schema=SCHEMA)


def downgrade() -> None:
    for table in ("device_codes", "pushed_requests"):
        op.drop_table(table, schema=SCHEMA)
