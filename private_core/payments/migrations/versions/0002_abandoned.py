"""Finding open operations, of which there are few, among all."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("CREATE INDEX operation_open ON payments.operation (created_time) WHERE progress = 'open'")


def downgrade() -> None:
    op.execute("DROP INDEX payments.operation_open")
