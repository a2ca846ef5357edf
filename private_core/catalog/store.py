"""Campaigns and content items in PostgreSQL. Each change is stored with the event that tells the edge of it.

An entity's body is its protobuf message without the version. The version is the row's: it grows by one with each change
and never goes back, not even when a deleted campaign is published again. What changes nothing makes no version and no
event, so a repeated call is the same as one.
"""

from collections.abc import Mapping
from typing import Any, Final

from isthmus.catalog.v1 import catalog_pb2 as pb
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    LargeBinary,
    MetaData,
    Table,
    Text,
    null,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh.contract import Contract
from mesh.database.engine import transact
from private_core.catalog.domain import default_locale_taken, no_such_campaign
from private_core.storage import outbox

SCHEMA: Final = "catalog"
_METADATA: Final = MetaData(schema=SCHEMA)

CAMPAIGN: Final = Table(
    "campaign",
    _METADATA,
    Column("campaign_id", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),
    # NULL: deleted. The row stays for its version.
    Column("body", LargeBinary),
)
CONTENT_ITEM: Final = Table(
    "content_item",
    _METADATA,
    Column("slug", Text, primary_key=True),
    Column("locale", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("default_locale", Boolean, nullable=False),
    Column("body", LargeBinary, nullable=False),
)


class CatalogStore:
    def __init__(self, engine: AsyncEngine, contract: Contract) -> None:
        self._engine = engine
        self._campaign_topic = contract.events[pb.Campaign.DESCRIPTOR.full_name].topic
        self._item_topic = contract.events[pb.ContentItem.DESCRIPTOR.full_name].topic

    async def put_campaign(self, campaign: pb.Campaign) -> pb.Campaign:
        """Store the campaign and give it with its version."""

        async def work(connection: AsyncConnection) -> pb.Campaign:
            stored = pb.Campaign()
            stored.CopyFrom(campaign)
            stored.version = 0
            key = {"campaign_id": campaign.campaign_id}
            stored.version, changed = await _put(connection, CAMPAIGN, key, {"body": _bytes(stored)})
            if changed:
                await outbox.append(connection, self._campaign_topic, stored.campaign_id, stored)
            return stored

        return await transact(self._engine, work)

    async def delete_campaign(self, campaign_id: str) -> None:
        """Delete it, or leave it deleted. Raises Absent when there never was one."""
        gone = (
            update(CAMPAIGN)
            .where(CAMPAIGN.c.campaign_id == campaign_id, CAMPAIGN.c.body.is_not(None))
            .values(body=null(), version=CAMPAIGN.c.version + 1)
            .returning(CAMPAIGN.c.version)
        )

        async def work(connection: AsyncConnection) -> None:
            if (await connection.execute(gone)).first() is not None:
                await outbox.append(connection, self._campaign_topic, campaign_id, None)
                return
            known = select(CAMPAIGN.c.version).where(CAMPAIGN.c.campaign_id == campaign_id)
            if (await connection.execute(known)).first() is None:
                raise no_such_campaign()

        await transact(self._engine, work)

    async def list_campaigns(self, after_id: str, limit: int) -> list[pb.Campaign]:
        """At most `limit` campaigns after `after_id`, ordered by id; deleted ones are left out."""
        query = (
            select(CAMPAIGN.c.version, CAMPAIGN.c.body)
            .where(CAMPAIGN.c.campaign_id > after_id, CAMPAIGN.c.body.is_not(None))
            .order_by(CAMPAIGN.c.campaign_id)
            .limit(limit)
        )

        async def work(connection: AsyncConnection) -> list[pb.Campaign]:
            found: list[pb.Campaign] = []
            for version, body in (await connection.execute(query)).all():
                campaign = pb.Campaign.FromString(bytes(body))
                campaign.version = version
                found.append(campaign)
            return found

        return await transact(self._engine, work)

    async def put_item(self, item: pb.ContentItem) -> pb.ContentItem:
        """Store the item and give it with its id and version. Raises WrongState when its slug has another default."""

        async def work(connection: AsyncConnection) -> pb.ContentItem:
            stored = pb.ContentItem()
            stored.CopyFrom(item)
            stored.item_id, stored.version = f"{item.slug}/{item.locale}", 0
            values = {"body": _bytes(stored), "default_locale": item.default_locale}
            key = {"slug": item.slug, "locale": item.locale}
            stored.version, changed = await _put(connection, CONTENT_ITEM, key, values)
            if changed:
                await outbox.append(connection, self._item_topic, stored.item_id, stored)
            return stored

        try:
            return await transact(self._engine, work)
        except IntegrityError:
            # The one constraint that a caller can break: one default locale for each slug.
            raise default_locale_taken() from None


async def _put(
    connection: AsyncConnection, table: Table, key: Mapping[str, Any], values: Mapping[str, Any]
) -> tuple[int, bool]:
    """Write the row unless it is the same already. Gives its version, and whether it changed; holds its lock."""
    add = insert(table).values(**key, **values, version=1)
    write = add.on_conflict_do_update(
        index_elements=[table.c[name] for name in key],
        set_={**values, "version": table.c.version + 1},
        where=table.c.body.is_distinct_from(add.excluded.body),
    ).returning(table.c.version)
    version = (await connection.execute(write)).scalar_one_or_none()
    if version is not None:
        return version, True
    same = select(table.c.version).where(*(table.c[name] == value for name, value in key.items()))
    return (await connection.execute(same)).scalar_one(), False


def _bytes(message: pb.Campaign | pb.ContentItem) -> bytes:
    # Maps in one order, so that equal messages are equal bytes.
    return message.SerializeToString(deterministic=True)
