"""Campaigns and content items made from the items of the impression files."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from isthmus.catalog.v1.catalog_pb2 import AdCreative, Campaign, ContentItem

from chaos.load.impressions import ImpressionRow

SHOP = "https://storefront.example"
LOCALES = ("en", "zh-CN")
TARGETED_FEATURE = "user_feature_0"
# One campaign in so many is for the users who saw its item most; all others are for everybody.
TARGETED_EVERY = 4
WEIGHT_MAX = 1_000_000
MARKER = "edition-marker"


@dataclass(frozen=True)
class Catalog:
    """What is published before traffic starts, in this order. All pages and the last campaign show the edition."""

    edition: str
    items: tuple[ContentItem, ...]
    campaigns: tuple[Campaign, ...]

    @property
    def landings(self) -> dict[str, str]:
        """Where a click on each campaign must lead."""
        return {campaign.campaign_id: campaign.creatives[0].landing_url for campaign in self.campaigns}


def landing_url(campaign_id: str) -> str:
    return f"{SHOP}/items/{campaign_id}"


def campaign_id(row: ImpressionRow) -> str:
    return f"{row.collection}-{row.item}"


def slug(row: ImpressionRow) -> str:
    """The page that a row's user reads."""
    return f"{row.collection}-{row.slot}"


def catalog(rows: Sequence[ImpressionRow], edition: str) -> Catalog:
    """One campaign for each distinct item, one page for each collection and slot in each locale."""
    campaigns = (*_campaigns(rows), _campaign(MARKER, [MARKER], 1, f"Edition {edition}"))
    pages = sorted({slug(row) for row in rows})
    items = tuple(_page(page, locale, edition) for page in pages for locale in LOCALES)
    return Catalog(edition, items, campaigns)


def _campaigns(rows: Iterable[ImpressionRow]) -> list[Campaign]:
    shown: dict[str, list[ImpressionRow]] = defaultdict(list)
    for row in rows:
        shown[campaign_id(row)].append(row)
    campaigns = [
        _campaign(name, sorted({row.slot for row in seen}), len(seen), f"Item {seen[0].item} of {seen[0].collection}")
        for name, seen in sorted(shown.items())
    ]
    for_everybody = Counter(slot for campaign in campaigns for slot in campaign.slots)
    for campaign in campaigns[::TARGETED_EVERY]:
        # A slot must never depend on who looks: something for everybody stays in each.
        if all(for_everybody[slot] > 1 for slot in campaign.slots):
            for_everybody.subtract(campaign.slots)
            users = Counter(row.features[TARGETED_FEATURE] for row in shown[campaign.campaign_id])
            campaign.targeting[TARGETED_FEATURE] = users.most_common(1)[0][0]
    return campaigns


def _campaign(name: str, slots: Iterable[str], weight: int, title: str) -> Campaign:
    creative = AdCreative(
        creative_id=f"{name}-1",
        title=title,
        image_url=f"{SHOP}/images/{name}.jpg",
        landing_url=landing_url(name),
    )
    return Campaign(campaign_id=name, slots=slots, weight=min(weight, WEIGHT_MAX), creatives=[creative])


def _page(page: str, locale: str, edition: str) -> ContentItem:
    return ContentItem(
        slug=page,
        locale=locale,
        title=f"Looks for {page}",
        body=f"<p>What goes with {page}.</p><p>Edition {edition}</p>",
        default_locale=locale == LOCALES[0],
        max_age_s=60,
    )
