"""Logins are found by a keyed hash and kept sealed. The server, which has the keys, seals those that are there."""

import sqlalchemy as sa
from alembic import op

revision = "oauth_0009"
down_revision = "oauth_0008"
branch_labels = None
depends_on = None

SCHEMA = "oauth"


def upgrade() -> None:
    op.add_column("accounts", sa.Column("login_index", sa.LargeBinary, unique=True), schema=SCHEMA)
    op.add_column("accounts", sa.Column("login_sealed", sa.LargeBinary), schema=SCHEMA)
    op.alter_column("accounts", "login", nullable=True, schema=SCHEMA)
    op.create_check_constraint(
        "login_once",
        "accounts",
        "(login IS NULL) = (login_index IS NOT NULL AND login_sealed IS NOT NULL)",
        schema=SCHEMA,
    )


def downgrade() -> None:
    raise NotImplementedError("what is sealed is not brought back into clear")
