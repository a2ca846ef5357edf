"""What retention removed: a record goes only when its leaf says which removal took it."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    # sequence: of the record that says what was removed, by which rule; as long as this row is here, so is that one.
    op.execute(
        """
        CREATE TABLE audit.removal (
            sequence   bigint PRIMARY KEY REFERENCES audit.record,
            -- Leaves [first_leaf, end_leaf).
            first_leaf bigint NOT NULL,
            end_leaf   bigint NOT NULL CHECK (end_leaf > first_leaf),
            -- The log's signature over that record, as a signed note.
            note       text NOT NULL
        )
        """
    )
    op.execute(
        """
        CREATE TABLE audit.removed (
            leaf_index bigint PRIMARY KEY REFERENCES audit.leaf,
            removal    bigint NOT NULL REFERENCES audit.removal
        )
        """
    )
    op.execute("CREATE INDEX ON audit.removed (removal)")
    for table in ("removal", "removed"):
        op.execute(
            f"""
            CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit.{table}
            FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_change()
            """
        )
        op.execute(f"ALTER TABLE audit.{table} ENABLE ALWAYS TRIGGER append_only")
    op.execute("DROP TRIGGER append_only ON audit.record")
    op.execute(
        """
        CREATE TRIGGER append_only BEFORE UPDATE OR TRUNCATE ON audit.record
        FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_change()
        """
    )
    op.execute(
        """
        CREATE FUNCTION audit.refuse_loss() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            -- A statement that finds nothing is refused as well, so that whoever tries learns the rule.
            IF NOT EXISTS (SELECT FROM gone) OR EXISTS (
                SELECT FROM gone LEFT JOIN audit.leaf ON record_sequence = sequence
                LEFT JOIN audit.removed USING (leaf_index) WHERE removal IS NULL
            ) THEN
                RAISE EXCEPTION 'audit.record loses nothing but what a removal has taken: % refused', TG_OP
                    USING ERRCODE = 'insufficient_privilege';
            END IF;
            RETURN NULL;
        END
        $$
        """
    )
    op.execute(
        """
        CREATE TRIGGER removed_only AFTER DELETE ON audit.record
        REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_loss()
        """
    )
    for trigger in ("append_only", "removed_only"):
        op.execute(f"ALTER TABLE audit.record ENABLE ALWAYS TRIGGER {trigger}")
