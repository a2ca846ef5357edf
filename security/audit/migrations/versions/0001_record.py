"""The audit log: rows are added, and never changed or removed."""

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE audit.record (
            sequence      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            record_id     uuid NOT NULL UNIQUE,
            time_us       bigint NOT NULL,
            peer          text NOT NULL,
            token_subject text NOT NULL,
            token_client  text NOT NULL,
            method        text NOT NULL,
            data_subject  text NOT NULL,
            decision      smallint NOT NULL CHECK (decision IN (1, 2)),
            result        text NOT NULL,
            reason        text NOT NULL,
            trace_id      text NOT NULL,
            workload      text NOT NULL,
            node          text NOT NULL,
            leaf_hash     bytea NOT NULL CHECK (octet_length(leaf_hash) = 32)
        )
        """
    )
    # Only the rows that have them: most calls are about nobody's data.
    op.execute("CREATE INDEX ON audit.record (data_subject, sequence) WHERE data_subject <> ''")
    op.execute("CREATE INDEX ON audit.record (token_subject, sequence) WHERE token_subject <> ''")
    # Sequence numbers are drawn before the commit, so a later number may be seen before an earlier one. Writers share
    # this lock; a reader that takes it alone for a moment knows that nothing below the newest number is still to come.
    op.execute(
        """
        CREATE FUNCTION audit.share_order() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pg_advisory_xact_lock_shared(hashtextextended('audit.record', 0));
            RETURN NULL;
        END
        $$
        """
    )
    op.execute(
        """
        CREATE TRIGGER ordered BEFORE INSERT ON audit.record
        FOR EACH STATEMENT EXECUTE FUNCTION audit.share_order()
        """
    )
    op.execute(
        """
        CREATE FUNCTION audit.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'audit.record is append-only: % refused', TG_OP USING ERRCODE = 'insufficient_privilege';
        END
        $$
        """
    )
    op.execute(
        """
        CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit.record
        FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_change()
        """
    )
    # Fires for replication roles too: a session must not switch the rule off with session_replication_role.
    op.execute("ALTER TABLE audit.record ENABLE ALWAYS TRIGGER append_only")
