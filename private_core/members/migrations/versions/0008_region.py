"""The region whose members the store holds: it has one, and no row of another."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE members.residence (
            -- Two regions never share a store.
            one_row boolean PRIMARY KEY DEFAULT true CHECK (one_row),
            region text NOT NULL UNIQUE CHECK (region ~ '^[A-Z]{2}$')
        )
        """
    )
    # Before there were regions there was this one.
    op.execute("INSERT INTO members.residence (region) SELECT 'CN' WHERE EXISTS (SELECT FROM members.member)")
    op.execute("ALTER TABLE members.member ADD COLUMN region text REFERENCES members.residence (region)")
    op.execute("UPDATE members.member SET region = 'CN'")
    op.execute("ALTER TABLE members.member ALTER COLUMN region SET NOT NULL")


def downgrade() -> None:
    op.execute("ALTER TABLE members.member DROP COLUMN region")
    op.execute("DROP TABLE members.residence")
