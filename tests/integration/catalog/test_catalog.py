"""What is published is clean, grows in version only when it changes, and goes out in the transaction that stored it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from isthmus.catalog.v1 import catalog_pb2 as pb
from isthmus.catalog.v1 import catalog_pb2_grpc
from isthmus.catalog.v1.catalog_pb2_grpc import CatalogStub

from mesh.database.engine import async_engine
from mesh.database.migrate import Owner, migrate
from mesh.errors import FailedPrecondition, InvalidArgument, MeshError, NotFound, PermissionDenied
from private_core.catalog import store as catalog_store
from private_core.catalog.service import CatalogService
from private_core.catalog.store import CatalogStore
from private_core.storage import outbox
from security.audit import postgres as audit_postgres
from security.audit.postgres import PostgresAuditSink
from tests.integration.room import PrivateRoom, own, plain

if TYPE_CHECKING:
    from isthmus.catalog.v1.catalog_pb2_grpc import CatalogAsyncStub

CAMPAIGNS, ITEMS = "isthmus.campaign.v1", "isthmus.content-item.v1"


@pytest.fixture(scope="module")
def url(postgres_url: str) -> str:
    migrate(postgres_url, [Owner.beside(module.__file__ or "") for module in (catalog_store, outbox, audit_postgres)])
    return postgres_url


@pytest.fixture
def room(tmp_path: Path) -> PrivateRoom:
    return PrivateRoom(tmp_path, "catalog")


@pytest.fixture
async def catalog(url: str, room: PrivateRoom) -> AsyncIterator["CatalogAsyncStub"]:
    """A stub with the core gateway's certificate; every test begins with nothing published."""
    with psycopg.connect(plain(url)) as connection:
        connection.execute("TRUNCATE catalog.campaign, catalog.content_item")
        connection.execute("DELETE FROM outbox.event")
    sink = PostgresAuditSink(async_engine(own(url, "catalog")))
    await sink.start()
    engine = async_engine(own(url, "catalog"))
    service = CatalogService(CatalogStore(engine, room.contract))
    async with room.serving(catalog_pb2_grpc.add_CatalogServicer_to_server, service, sink), room.caller() as channel:
        yield CatalogStub(channel)
    await sink.stop(2.0)
    await engine.dispose()


def campaign(campaign_id: str = "spring", **changes: object) -> pb.Campaign:
    creative = pb.AdCreative(
        creative_id="one", title="Shoes", image_url="https://cdn.example/1.png", landing_url="https://shop.example/1"
    )
    fields = {"campaign_id": campaign_id, "slots": ["position-1"], "weight": 1, "creatives": [creative]}
    return pb.Campaign(**fields | changes)  # type: ignore[arg-type]


def item(**changes: object) -> pb.ContentItem:
    fields = {"slug": "about", "locale": "zh-CN", "title": "About", "body": "<p>Hello</p>"}
    return pb.ContentItem(**fields | changes)  # type: ignore[arg-type]


def events(url: str) -> list[tuple[str, str, bytes | None]]:
    with psycopg.connect(plain(url)) as connection:
        rows = connection.execute("SELECT topic, key, payload FROM outbox.event ORDER BY seq").fetchall()
    return [(topic, key, None if payload is None else bytes(payload)) for topic, key, payload in rows]


class Publisher:
    def __init__(self, catalog: "CatalogAsyncStub", room: PrivateRoom) -> None:
        self.catalog = catalog
        self.room = room

    async def put(self, entity: pb.Campaign) -> pb.Campaign:
        metadata = self.room.bearer("catalog.write")
        return (await self.catalog.PutCampaign(pb.PutCampaignRequest(campaign=entity), metadata=metadata)).campaign

    async def delete(self, campaign_id: str) -> None:
        request = pb.DeleteCampaignRequest(campaign_id=campaign_id)
        await self.catalog.DeleteCampaign(request, metadata=self.room.bearer("catalog.write"))

    async def put_item(self, entity: pb.ContentItem) -> pb.ContentItem:
        metadata = self.room.bearer("catalog.write")
        return (await self.catalog.PutContentItem(pb.PutContentItemRequest(item=entity), metadata=metadata)).item

    async def page(self, size: int, token: str = "") -> pb.ListCampaignsResponse:
        request = pb.ListCampaignsRequest(page_size=size, page_token=token)
        return await self.catalog.ListCampaigns(request, metadata=self.room.bearer("catalog.read"))


@pytest.fixture
def publisher(catalog: "CatalogAsyncStub", room: PrivateRoom) -> Publisher:
    return Publisher(catalog, room)


async def test_a_campaign_is_stored_with_its_event(publisher: Publisher, url: str) -> None:
    stored = await publisher.put(campaign())
    assert stored.version == 1
    ((topic, key, payload),) = events(url)
    assert (topic, key) == (CAMPAIGNS, "spring")
    assert payload is not None
    assert pb.Campaign.FromString(payload) == stored


async def test_the_version_grows_with_each_change_and_with_nothing_else(publisher: Publisher, url: str) -> None:
    versions = [(await publisher.put(campaign(weight=weight, version=99))).version for weight in (1, 1, 2, 2, 1)]
    assert versions == [1, 1, 2, 2, 3]
    assert len(events(url)) == 3


async def test_parallel_changes_have_versions_and_events_of_their_own(publisher: Publisher, url: str) -> None:
    await asyncio.gather(*(publisher.put(campaign(weight=weight)) for weight in range(1, 9)))
    payloads = [payload for _, _, payload in events(url)]
    assert [pb.Campaign.FromString(payload).version for payload in payloads if payload] == list(range(1, 9))


async def test_a_deleted_campaign_is_a_tombstone_and_comes_back_newer(publisher: Publisher, url: str) -> None:
    await publisher.put(campaign())
    await publisher.delete("spring")
    await publisher.delete("spring")
    assert events(url)[1:] == [(CAMPAIGNS, "spring", None)]
    assert not (await publisher.page(10)).campaigns
    assert (await publisher.put(campaign())).version == 3
    with pytest.raises(NotFound, match="CAMPAIGN_UNKNOWN"):
        await publisher.delete("never-there")


async def test_pages_show_every_campaign_once(publisher: Publisher) -> None:
    names = [f"c-{number:02}" for number in range(7)]
    for name in reversed(names):
        await publisher.put(campaign(name))
    seen: list[str] = []
    token, pages = "", 0
    while pages == 0 or token:
        page = await publisher.page(3, token)
        seen += [one.campaign_id for one in page.campaigns]
        token, pages = page.next_page_token, pages + 1
    assert (seen, pages) == (names, 3)
    with pytest.raises(InvalidArgument, match="PAGE_TOKEN_INVALID"):
        await publisher.page(3, "no token")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"starts_us": 2, "ends_us": 2}, "SCHEDULE_EMPTY"),
        ({"creatives": [campaign().creatives[0]] * 2}, "CREATIVE_TWICE"),
        ({"slots": []}, "FIELDS_INVALID"),
        ({"weight": 0}, "FIELDS_INVALID"),
    ],
)
async def test_a_campaign_that_breaks_a_rule_is_refused_whole(
    publisher: Publisher, url: str, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidArgument, match=reason):
        await publisher.put(campaign(**changes))
    assert events(url) == []


@pytest.mark.parametrize(
    "link", ["http://shop.example/", "https://user:word@shop.example/", "https://shop.example\\@evil/"]
)
async def test_a_link_that_hides_where_it_leads_is_refused(publisher: Publisher, link: str) -> None:
    hidden = campaign()
    hidden.creatives[0].landing_url = link
    with pytest.raises(InvalidArgument):
        await publisher.put(hidden)


async def test_published_markup_is_sanitised(publisher: Publisher, url: str) -> None:
    body = (
        '<p onclick="x()">Hi<script>steal()</script><a href="javascript:x()">a</a><a href="https://b.example">b</a></p>'
    )
    stored = await publisher.put_item(item(locale="zh-cn", body=body))
    assert (stored.item_id, stored.locale, stored.version) == ("about/zh-CN", "zh-CN", 1)
    for bad in ("script", "steal", "onclick", "javascript"):
        assert bad not in stored.body
    assert '<a href="https://b.example"' in stored.body
    ((topic, key, payload),) = events(url)
    assert (topic, key, payload) == (ITEMS, "about/zh-CN", stored.SerializeToString(deterministic=True))


async def test_an_item_has_one_default_locale(publisher: Publisher, url: str) -> None:
    await publisher.put_item(item(default_locale=True))
    with pytest.raises(FailedPrecondition, match="DEFAULT_LOCALE_TAKEN"):
        await publisher.put_item(item(locale="en", default_locale=True))
    await publisher.put_item(item(default_locale=False))
    await publisher.put_item(item(locale="en", default_locale=True))
    assert len(events(url)) == 3


async def test_only_a_token_with_the_scope_publishes(catalog: "CatalogAsyncStub", room: PrivateRoom) -> None:
    request = pb.PutCampaignRequest(campaign=campaign())
    with pytest.raises(PermissionDenied, match="SCOPE_MISSING"):
        await catalog.PutCampaign(request, metadata=room.bearer("catalog.read"))
    async with room.caller("orders") as channel:
        with pytest.raises(MeshError, match="CALLER_NOT_ALLOWED"):
            await CatalogStub(channel).PutCampaign(request, metadata=room.bearer("catalog.write"))
