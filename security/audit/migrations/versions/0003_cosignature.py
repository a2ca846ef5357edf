"""What witnesses have cosigned."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE audit.cosignature (
            tree_size bigint NOT NULL REFERENCES audit.checkpoint,
            witness   text NOT NULL,
            -- The line of the signed note.
            line      text NOT NULL,
            PRIMARY KEY (tree_size, witness)
        )
        """
    )
    op.execute(
        """
        CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit.cosignature
        FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_change()
        """
    )
    op.execute("ALTER TABLE audit.cosignature ENABLE ALWAYS TRIGGER append_only")
