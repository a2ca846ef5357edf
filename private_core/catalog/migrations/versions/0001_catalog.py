"""Campaigns and content items."""

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE catalog.campaign (
            campaign_id text COLLATE "C" PRIMARY KEY,
            version bigint NOT NULL CHECK (version > 0),
            -- Serialised isthmus.catalog.v1.Campaign; NULL: deleted.
            body bytea
        )
        """
    )
    op.execute(
        """
        CREATE TABLE catalog.content_item (
            slug text COLLATE "C" NOT NULL,
            locale text COLLATE "C" NOT NULL,
            version bigint NOT NULL CHECK (version > 0),
            default_locale boolean NOT NULL,
            -- Serialised isthmus.catalog.v1.ContentItem.
            body bytea NOT NULL,
            PRIMARY KEY (slug, locale)
        )
        """
    )
    op.execute("CREATE UNIQUE INDEX one_default ON catalog.content_item (slug) WHERE default_locale")


def downgrade() -> None:
    op.execute("DROP TABLE catalog.content_item, catalog.campaign")
