"""Make the order of `seq` the order of commits for each key, whatever locks the writers hold.

An identity is drawn when a row is written, and rows become visible when their transaction commits: without more, a
row with a lower seq may appear after one with a higher seq, and the older state of an entity would be sent last.
The first writer of a key holds the key until it commits, and only who holds the key draws a number. Writers of other
keys do not wait. Logical decoding would give the order without waiting, but needs a replication slot, which keeps the
log of the whole server when its reader is away.
"""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("""
        CREATE FUNCTION outbox.draw_seq() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pg_advisory_xact_lock(hashtextextended(NEW.topic || ' ' || NEW.key, 0));
            NEW.seq := nextval(pg_get_serial_sequence('outbox.event', 'seq'));
            RETURN NEW;
        END $$;
        CREATE TRIGGER draw_seq BEFORE INSERT ON outbox.event FOR EACH ROW EXECUTE FUNCTION outbox.draw_seq();
    """)


def downgrade() -> None:
    op.execute("DROP TRIGGER draw_seq ON outbox.event")
    op.execute("DROP FUNCTION outbox.draw_seq()")
