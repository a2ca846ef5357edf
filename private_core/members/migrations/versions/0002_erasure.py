"""Members that were erased: nothing stays of them but the id that orders and the audit log know."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute(
        """
        ALTER TABLE members.member
            ADD COLUMN erased_time timestamptz,
            ALTER COLUMN phone_index DROP NOT NULL,
            ALTER COLUMN phone DROP NOT NULL,
            ALTER COLUMN name DROP NOT NULL,
            ALTER COLUMN address DROP NOT NULL,
            ADD CHECK (
                CASE WHEN erased_time IS NULL
                    THEN num_nulls(phone_index, phone, name, address) = 0
                    ELSE num_nonnulls(phone_index, phone, name, address) = 0
                END
            )
        """
    )
