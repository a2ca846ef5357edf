"""The newest time by which anything was removed: a clock that is far ahead of it is not believed."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE audit.retention_clock (
            one_row boolean PRIMARY KEY DEFAULT true CHECK (one_row),
            newest  timestamptz NOT NULL,
            -- Of the refusal that was put on record last.
            refused timestamptz
        )
        """
    )
    op.execute("INSERT INTO audit.retention_clock (newest) VALUES (now())")
    # The rooms cannot move it but by this; step is how far a clock may have gone on since.
    op.execute(
        """
        CREATE FUNCTION audit.believe(claimed timestamptz, step interval, OUT believed boolean, OUT to_tell boolean)
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
        DECLARE
            known audit.retention_clock;
        BEGIN
            SELECT * INTO STRICT known FROM audit.retention_clock FOR UPDATE;
            believed := claimed <= known.newest + step AND claimed <= clock_timestamp() + step;
            -- Not for every process and every round of it.
            to_tell := NOT believed AND claimed >= coalesce(known.refused, '-infinity') + interval '1 day';
            IF believed AND claimed > known.newest + interval '1 minute' THEN
                UPDATE audit.retention_clock SET newest = claimed;
            ELSIF to_tell THEN
                UPDATE audit.retention_clock SET refused = claimed;
            END IF;
        END
        $$
        """
    )
    op.execute("REVOKE EXECUTE ON FUNCTION audit.believe FROM PUBLIC")


def downgrade() -> None:
    op.execute("DROP FUNCTION audit.believe")
    op.execute("DROP TABLE audit.retention_clock")
