"""What providers were held against, by day, and every difference that was found."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE payments.reconciliation (
            provider text NOT NULL,
            day date NOT NULL,
            finished_time timestamptz NOT NULL DEFAULT now(),
            lines bigint NOT NULL,
            differences bigint NOT NULL,
            PRIMARY KEY (provider, day)
        )
        """
    )
    op.execute(
        """
        CREATE TABLE payments.difference (
            provider text NOT NULL,
            operation_id text NOT NULL,
            name text NOT NULL,
            here text NOT NULL,
            there text NOT NULL,
            -- The day of the statement; NULL: a notification said so.
            day date,
            found_time timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (provider, operation_id, name)
        )
        """
    )
    op.execute("CREATE INDEX operation_age ON payments.operation USING brin (created_time)")
