"""What marketing asks of clicks and purchases together: whose ad led to an order, and who buys how often."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The last click before the order on the ad that the order names. A crawler's click is nobody's. `click_age` says
    # how long before: whoever asks chooses the window, and the last click is in it or none is.
    op.execute("""
        CREATE VIEW warehouse.attributed_purchase AS
        SELECT purchase.order_id, purchase.member_id, purchase.state, purchase.total_minor, purchase.currency,
            purchase.placed_time, click.event_id AS click_event_id, click.slot, click.campaign_id, click.creative_id,
            purchase.placed_time - click.accepted_time AS click_age
        FROM warehouse.purchase LEFT JOIN LATERAL (
            SELECT event_id, slot, campaign_id, creative_id, accepted_time FROM warehouse.click
            WHERE impression_id = purchase.click_id AND NOT crawler AND accepted_time <= purchase.placed_time
            ORDER BY accepted_time DESC, event_id DESC LIMIT 1
        ) AS click ON true
    """)
    # Scores are fifths by rank, 5 the best; customers who are equal have the same score. Times are the purchase's own
    # where it states one: a purchase that is replayed happened when it says.
    op.execute("""
        CREATE VIEW warehouse.rfm AS
        WITH customer AS (
            SELECT member_id, currency, max(coalesce(source_time, placed_time)) AS last_time, count(*) AS purchases,
                sum(total_minor)::bigint AS spent_minor
            FROM warehouse.purchase WHERE state <> 'cancelled' GROUP BY member_id, currency
        )
        SELECT member_id, currency, last_time, max(last_time) OVER all_of_them - last_time AS recency, purchases,
            spent_minor,
            1 + 5 * (rank() OVER (PARTITION BY currency ORDER BY last_time) - 1)
                / count(*) OVER (PARTITION BY currency) AS recency_score,
            1 + 5 * (rank() OVER (PARTITION BY currency ORDER BY purchases) - 1)
                / count(*) OVER (PARTITION BY currency) AS frequency_score,
            1 + 5 * (rank() OVER (PARTITION BY currency ORDER BY spent_minor) - 1)
                / count(*) OVER (PARTITION BY currency) AS monetary_score
        FROM customer WINDOW all_of_them AS (PARTITION BY currency)
    """)
