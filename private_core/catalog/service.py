"""The Catalog service: convert, check the rules, store with the event, convert."""

import base64
import binascii
from typing import Any

from isthmus.catalog.v1 import catalog_pb2 as pb
from isthmus.catalog.v1 import catalog_pb2_grpc

from private_core.catalog import domain
from private_core.catalog.markup import sanitised
from private_core.catalog.store import CatalogStore
from private_core.refusals import Malformed
from private_core.translation import translated


class CatalogService(catalog_pb2_grpc.CatalogServicer):
    def __init__(self, store: CatalogStore) -> None:
        self._store = store

    async def PutCampaign(self, request: pb.PutCampaignRequest, context: Any) -> pb.PutCampaignResponse:
        campaign = request.campaign
        with translated():
            domain.check_schedule(campaign.starts_us, campaign.ends_us)
            domain.check_creatives([creative.creative_id for creative in campaign.creatives])
            for creative in campaign.creatives:
                domain.check_title(creative.title)
                domain.check_link(creative.image_url)
                domain.check_link(creative.landing_url)
            return pb.PutCampaignResponse(campaign=await self._store.put_campaign(campaign))

    async def DeleteCampaign(self, request: pb.DeleteCampaignRequest, context: Any) -> pb.DeleteCampaignResponse:
        with translated():
            await self._store.delete_campaign(request.campaign_id)
        return pb.DeleteCampaignResponse()

    async def ListCampaigns(self, request: pb.ListCampaignsRequest, context: Any) -> pb.ListCampaignsResponse:
        size = request.page_size or domain.PAGE_SIZE
        with translated():
            # One more than asked for tells whether there is another page.
            campaigns = await self._store.list_campaigns(_read_token(request.page_token), size + 1)
        page = campaigns[:size]
        more = len(campaigns) > size
        return pb.ListCampaignsResponse(campaigns=page, next_page_token=_token(page[-1].campaign_id) if more else "")

    async def PutContentItem(self, request: pb.PutContentItemRequest, context: Any) -> pb.PutContentItemResponse:
        item = pb.ContentItem()
        item.CopyFrom(request.item)
        with translated():
            domain.check_title(item.title)
            item.locale = domain.canonical_locale(item.locale)
            item.body = sanitised(item.body)
            return pb.PutContentItemResponse(item=await self._store.put_item(item))


def _token(campaign_id: str) -> str:
    return base64.urlsafe_b64encode(campaign_id.encode()).decode().rstrip("=")


def _read_token(token: str) -> str:
    """The id of the last campaign of the page before; "" for the first page."""
    try:
        return base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        raise Malformed(
            "PAGE_TOKEN_INVALID", "the page token is none of ours", "send next_page_token as it came"
        ) from None
