"""Second factors of members, and which factors a sign-in was made with."""

import sqlalchemy as sa
from alembic import op

revision = "oauth_0005"
down_revision = "oauth_0004"
branch_labels = None
depends_on = None

SCHEMA = "oauth"


def upgrade() -> None:
    op.create_table(
        "second_factors",
        sa.Column("member_id", sa.Text, sa.ForeignKey(f"{SCHEMA}.accounts.member_id"), primary_key=True),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("used_step", sa.BigInteger, nullable=False),
        schema=SCHEMA,
    )
    for table in ("codes", "families", "device_codes"):
        op.add_column(table, sa.Column("context", sa.Text, nullable=False, server_default=""), schema=SCHEMA)


def downgrade() -> None:
    for table in ("device_codes", "families", "codes"):
        op.drop_column(table, "context", schema=SCHEMA)
    op.drop_table("second_factors", schema=SCHEMA)
