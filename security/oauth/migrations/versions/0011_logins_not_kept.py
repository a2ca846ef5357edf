"""Logins are kept as a keyed hash alone; a session has its own, sealed under what its cookie holds."""

import sqlalchemy as sa
from alembic import op

revision = "oauth_0011"
down_revision = "oauth_0010"
branch_labels = None
depends_on = None

SCHEMA = "oauth"


def upgrade() -> None:
    op.drop_constraint("login_once", "accounts", schema=SCHEMA)
    op.drop_column("accounts", "login_sealed", schema=SCHEMA)
    op.create_check_constraint("login_once", "accounts", "(login IS NULL) = (login_index IS NOT NULL)", schema=SCHEMA)
    op.add_column("sessions", sa.Column("login_sealed", sa.LargeBinary), schema=SCHEMA)


def downgrade() -> None:
    raise NotImplementedError("what is not kept is not brought back")
