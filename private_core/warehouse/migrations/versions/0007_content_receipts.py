"""What became of content items that were sent to readers: delivered, opened, shared; and the rates of both."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE warehouse.content_receipt (
            event_id uuid PRIMARY KEY,
            source_time timestamptz,
            accepted_time timestamptz NOT NULL,
            node text NOT NULL,
            slug text NOT NULL,
            delivery_id uuid NOT NULL,
            step text NOT NULL CHECK (step IN ('delivered', 'opened', 'shared')),
            crawler boolean NOT NULL,
            trace_id uuid,
            record_partition integer NOT NULL,
            record_offset bigint NOT NULL,
            landed_time timestamptz NOT NULL DEFAULT clock_timestamp()
        );
        CREATE INDEX content_receipt_by_time ON warehouse.content_receipt USING brin (accepted_time);
    """)
    # A delivery counts once a step, and only when the step before was told too: a rate is never above one, and an
    # opening that somebody made up, of what nobody sent, counts for nothing. Without deliveries there is no open rate.
    op.execute("""
        CREATE VIEW warehouse.content_delivery AS
        SELECT slug, delivery_id, bool_or(step = 'delivered') AS delivered,
            bool_or(step = 'delivered') AND bool_or(step = 'opened') AS opened,
            bool_or(step = 'delivered') AND bool_or(step = 'opened') AND bool_or(step = 'shared') AS shared
        FROM warehouse.content_receipt WHERE NOT crawler GROUP BY slug, delivery_id
    """)
    op.execute("""
        CREATE VIEW warehouse.content_reach AS
        SELECT slug, delivered, opened, shared, opened::float8 / nullif(delivered, 0) AS open_rate,
            shared::float8 / nullif(opened, 0) AS share_rate
        FROM (
            SELECT slug, count(*) FILTER (WHERE delivered) AS delivered, count(*) FILTER (WHERE opened) AS opened,
                count(*) FILTER (WHERE shared) AS shared
            FROM warehouse.content_delivery GROUP BY ROLLUP (slug)
        ) AS counted
    """)
    op.execute("""
        CREATE OR REPLACE VIEW warehouse.doubled_row AS
        SELECT 'impression' AS kind, event_id, count(*) AS copies
        FROM warehouse.impression GROUP BY event_id HAVING count(*) > 1
        UNION ALL
        SELECT 'click', event_id, count(*) FROM warehouse.click GROUP BY event_id HAVING count(*) > 1
        UNION ALL
        SELECT 'content_view', event_id, count(*) FROM warehouse.content_view GROUP BY event_id HAVING count(*) > 1
        UNION ALL
        SELECT 'content_receipt', event_id, count(*)
        FROM warehouse.content_receipt GROUP BY event_id HAVING count(*) > 1
    """)
