"""Whether an erased member's account is gone as well: the authorization server has it, and may be away."""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    # Empty for all that were erased before: whoever erased them may not have come as far.
    op.execute(
        """
        ALTER TABLE members.member
            ADD COLUMN account_erased_time timestamptz,
            ADD CHECK (account_erased_time IS NULL OR erased_time IS NOT NULL)
        """
    )
    op.execute(
        "CREATE INDEX member_account ON members.member (erased_time)"
        " WHERE erased_time IS NOT NULL AND account_erased_time IS NULL"
    )


def downgrade() -> None:
    op.execute("DROP INDEX members.member_account")
    op.execute("ALTER TABLE members.member DROP COLUMN account_erased_time")
