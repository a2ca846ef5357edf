"""The three events of the edge, and the views that count them.

The inward bridge writes the tables; nobody else does. `trace_id` is a uuid only because both are 16 bytes.
(record_partition, record_offset) say where in its topic a row came from, so that rows can be held against the bridge's
own counters.
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ORIGIN = """
    trace_id uuid,
    record_partition integer NOT NULL,
    record_offset bigint NOT NULL,
    landed_time timestamptz NOT NULL DEFAULT clock_timestamp()
"""


def upgrade() -> None:
    op.execute(f"""
        CREATE TABLE warehouse.impression (
            event_id uuid PRIMARY KEY,
            source_time timestamptz,
            accepted_time timestamptz NOT NULL,
            node text NOT NULL,
            slot text NOT NULL,
            campaign_id text,
            creative_id text,
            features jsonb,
            crawler boolean NOT NULL,
            {ORIGIN}
        );
        CREATE TABLE warehouse.click (
            event_id uuid PRIMARY KEY,
            source_time timestamptz,
            accepted_time timestamptz NOT NULL,
            node text NOT NULL,
            slot text NOT NULL,
            campaign_id text,
            creative_id text,
            impression_id uuid NOT NULL,
            crawler boolean NOT NULL,
            replayed boolean NOT NULL,
            {ORIGIN}
        );
        CREATE TABLE warehouse.content_view (
            event_id uuid PRIMARY KEY,
            source_time timestamptz,
            accepted_time timestamptz NOT NULL,
            node text NOT NULL,
            slug text NOT NULL,
            locale text,
            version bigint NOT NULL,
            not_modified boolean NOT NULL,
            crawler boolean NOT NULL,
            {ORIGIN}
        );
        CREATE INDEX click_by_impression ON warehouse.click (impression_id, accepted_time, event_id);
        CREATE INDEX click_by_time ON warehouse.click (accepted_time);
    """)
    # Which click of an impression counts. `net` leaves crawlers out before it looks for the first one, so a crawler
    # that was quicker does not take a person's click away.
    op.execute("""
        CREATE VIEW warehouse.counted_click AS
        SELECT click.*,
            row_number() OVER (PARTITION BY impression_id ORDER BY accepted_time, event_id) = 1 AS counted,
            NOT crawler AND row_number() OVER (
                PARTITION BY impression_id, crawler ORDER BY accepted_time, event_id
            ) = 1 AS net
        FROM warehouse.click
    """)
    op.execute("""
        CREATE VIEW warehouse.traffic AS
        SELECT slot, campaign_id, count(*) AS impressions, 0::bigint AS gross_clicks, 0::bigint AS clicks,
            0::bigint AS net_clicks, 0::bigint AS crawler_clicks
        FROM warehouse.impression GROUP BY slot, campaign_id
        UNION ALL
        SELECT slot, campaign_id, 0, count(*), count(*) FILTER (WHERE counted), count(*) FILTER (WHERE net),
            count(*) FILTER (WHERE crawler)
        FROM warehouse.counted_click GROUP BY slot, campaign_id
    """)
    op.execute("""
        CREATE VIEW warehouse.doubled_row AS
        SELECT 'impression' AS kind, event_id, count(*) AS copies
        FROM warehouse.impression GROUP BY event_id HAVING count(*) > 1
        UNION ALL
        SELECT 'click', event_id, count(*) FROM warehouse.click GROUP BY event_id HAVING count(*) > 1
        UNION ALL
        SELECT 'content_view', event_id, count(*) FROM warehouse.content_view GROUP BY event_id HAVING count(*) > 1
    """)
