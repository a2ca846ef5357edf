"""Who may see other members' records, how much of them, and until when."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE members.grade (
            subject text PRIMARY KEY,
            grade text NOT NULL CHECK (grade IN ('general', 'sensitive')),
            given_time timestamptz NOT NULL,
            ends_time timestamptz NOT NULL CHECK (ends_time > given_time)
        )
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE members.grade")
