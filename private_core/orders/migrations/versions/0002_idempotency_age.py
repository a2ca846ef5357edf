"""Finding the idempotency records that may go."""

from alembic import op

from private_core.storage.expiry import CREATE_INDEX

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute(CREATE_INDEX.format(schema="orders"))


def downgrade() -> None:
    op.execute("DROP INDEX orders.idempotency_age")
