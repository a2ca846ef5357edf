"""When a member was last there, for how long what is personal about them is kept."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.execute(
        """
        ALTER TABLE members.member
            ADD COLUMN used_time timestamptz NOT NULL DEFAULT now(),
            -- Since when the values of the classes that are kept for less long are gone.
            ADD COLUMN thinned_time timestamptz
        """
    )
    op.execute("CREATE INDEX member_by_use ON members.member (used_time) WHERE erased_time IS NULL")


def downgrade() -> None:
    op.execute("ALTER TABLE members.member DROP COLUMN thinned_time, DROP COLUMN used_time")
