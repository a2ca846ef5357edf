"""Finding the idempotency records that may go."""

from alembic import op

from private_core.storage.expiry import CREATE_INDEX

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute(CREATE_INDEX.format(schema="members"))


def downgrade() -> None:
    op.execute("DROP INDEX members.idempotency_age")
