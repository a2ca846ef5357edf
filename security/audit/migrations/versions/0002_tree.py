"""The tree over the records: which record is which leaf, and the checkpoints signed over them."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    # The leaf hash stands here again: when it and the row differ, it is plain which row was changed.
    op.execute(
        """
        CREATE TABLE audit.leaf (
            leaf_index      bigint PRIMARY KEY CHECK (leaf_index >= 0),
            record_sequence bigint NOT NULL UNIQUE,
            leaf_hash       bytea NOT NULL CHECK (octet_length(leaf_hash) = 32)
        )
        """
    )
    # subtrees: the compact range of the tree, so that it grows on without being read from the beginning. The signed
    # root vouches for it.
    op.execute(
        """
        CREATE TABLE audit.checkpoint (
            tree_size bigint PRIMARY KEY CHECK (tree_size > 0),
            time_us   bigint NOT NULL,
            subtrees  bytea NOT NULL CHECK (octet_length(subtrees) % 32 = 0),
            note      text NOT NULL
        )
        """
    )
    # Records come nearly in the order of their times, so this index stays tiny.
    op.execute("CREATE INDEX ON audit.record USING brin (time_us) WITH (pages_per_range = 16)")
    op.execute(
        """
        CREATE OR REPLACE FUNCTION audit.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'audit.% is append-only: % refused', TG_TABLE_NAME, TG_OP
                USING ERRCODE = 'insufficient_privilege';
        END
        $$
        """
    )
    for table in ("leaf", "checkpoint"):
        op.execute(
            f"""
            CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit.{table}
            FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_change()
            """
        )
        op.execute(f"ALTER TABLE audit.{table} ENABLE ALWAYS TRIGGER append_only")
