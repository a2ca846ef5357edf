"""Letters of the way outward: back into the outbox, or superseded by what was sent since.

Functions of the schema's owner: the inward bridge, which serves operators, may put a letter's own content back and
cannot write anything else into the outbox; the outward bridge may settle letters and cannot read them.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A compacted topic wants the newest state of a key. What was sent after a letter has settled it (supersede), what
    # waits in the outbox comes after it, and of several letters the last one counts. The row is written before the look
    # around: who writes holds the key (outbox.draw_seq), so that nobody can come between.
    op.execute("""
        CREATE FUNCTION bridge.send_again(wanted bigint) RETURNS text
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        DECLARE
            letter record;
            drawn bigint;
        BEGIN
            SELECT topic, record_key, convert_from(record_key, 'UTF8') AS key, payload INTO STRICT letter
            FROM bridge.dead_letter
            WHERE dead_letter_id = wanted AND direction = 'outward' AND state = 'open' FOR UPDATE;
            IF EXISTS (
                SELECT FROM bridge.dead_letter
                WHERE direction = 'outward' AND state = 'open' AND topic = letter.topic
                    AND record_key = letter.record_key AND dead_letter_id > wanted
            ) THEN
                UPDATE bridge.dead_letter
                SET state = 'dropped', settled_time = clock_timestamp(), reason = 'a newer state is a letter as well',
                    record_key = NULL, payload = NULL
                WHERE dead_letter_id = wanted;
                RETURN 'superseded';
            END IF;
            INSERT INTO outbox.event (topic, key, payload) VALUES (letter.topic, letter.key, letter.payload)
            RETURNING seq INTO drawn;
            IF EXISTS (
                SELECT FROM outbox.event WHERE topic = letter.topic AND key = letter.key AND seq <> drawn
            ) THEN
                DELETE FROM outbox.event WHERE seq = drawn;
                RETURN 'newer waits';
            END IF;
            UPDATE bridge.dead_letter
            SET state = 'replayed', settled_time = clock_timestamp(), attempts = attempts + 1
            WHERE dead_letter_id = wanted;
            RETURN 'sent';
        END $$;
        REVOKE ALL ON FUNCTION bridge.send_again FROM PUBLIC;
    """)
    op.execute("""
        CREATE FUNCTION bridge.supersede(topics text[], keys text[], seqs bigint[]) RETURNS void
        LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
            UPDATE bridge.dead_letter AS letter
            SET state = 'dropped', settled_time = clock_timestamp(), reason = 'a newer state was sent',
                record_key = NULL, payload = NULL
            FROM unnest(topics, keys, seqs) AS sent (topic, key, seq)
            WHERE letter.direction = 'outward' AND letter.state = 'open' AND letter.topic = sent.topic
                AND letter.record_key = convert_to(sent.key, 'UTF8') AND letter.position < sent.seq
        $$;
        REVOKE ALL ON FUNCTION bridge.supersede FROM PUBLIC;
    """)
