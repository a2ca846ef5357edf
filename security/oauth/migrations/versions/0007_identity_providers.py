"""Sign-in by outside identity providers: who is away at one, and who there is which member."""

import sqlalchemy as sa
from alembic import op

revision = "oauth_0007"
down_revision = "oauth_0006"
branch_labels = None
depends_on = None

SCHEMA = "oauth"


def upgrade() -> None:
    op.create_table(
        "departures",
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("browser", sa.LargeBinary, nullable=False),
        sa.Column("departure", sa.Text, nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        schema=SCHEMA,
    )
    op.create_index("departures_by_expiry", "departures", ["expires_at"], schema=SCHEMA)
    op.create_table(
        "identities",
        sa.Column("identity", sa.LargeBinary, primary_key=True),
        sa.Column("member_id", sa.Text, sa.ForeignKey(f"{SCHEMA}.accounts.member_id"), nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("connected_at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("member_id", "provider"),
        schema=SCHEMA,
    )


def downgrade() -> None:
    for table in ("identities", "departures"):
        op.drop_table(table, schema=SCHEMA)
