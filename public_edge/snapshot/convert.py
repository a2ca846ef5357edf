"""From what the catalog publishes to what the rooms use. A record that breaks a rule is refused, not guessed at."""

from google.protobuf.message import DecodeError
from isthmus.catalog.v1 import catalog_pb2

from public_edge.ads.domain import Campaign, Creative
from public_edge.content.domain import Item

CREATIVES_MAX = 16
SLOTS_MAX = 64
TARGETING_MAX = 4


class Unusable(Exception):
    """Says which rule the record breaks."""


def campaign(key: str, value: bytes) -> Campaign:
    """Raises Unusable."""
    message = catalog_pb2.Campaign()
    try:
        message.ParseFromString(value)
    except DecodeError:
        raise Unusable("not a campaign") from None
    if message.campaign_id != key or not _is_short_ascii(key):
        raise Unusable("its id is not its key, or no plain id")
    if message.weight < 1 or not 1 <= len(message.creatives) <= CREATIVES_MAX:
        raise Unusable("no weight, no creative, or too many")
    if not 1 <= len(message.slots) <= SLOTS_MAX or len(message.targeting) > TARGETING_MAX:
        raise Unusable("no slot, or too many slots or features")
    if not all(_is_short_ascii(slot) for slot in message.slots):
        raise Unusable("a slot with no plain name")
    for creative in message.creatives:
        if not creative.landing_url.startswith("https://") or not _is_short_ascii(creative.creative_id):
            raise Unusable("a creative without plain id or HTTPS landing page")
        if any(character <= " " or character == "\x7f" for character in creative.landing_url):
            raise Unusable("a landing page with blanks or control characters")
    return Campaign(
        campaign_id=key,
        slots=tuple(dict.fromkeys(message.slots)),
        creatives=tuple(
            Creative(key, creative.creative_id, creative.title, creative.image_url, creative.landing_url)
            for creative in message.creatives
        ),
        targeting=tuple(sorted(message.targeting.items())),
        weight=message.weight,
        starts_us=message.starts_us,
        ends_us=message.ends_us,
        budget_impressions=message.budget_impressions,
        frequency_cap_per_day=message.frequency_cap_per_day,
        version=message.version,
    )


def content_item(key: str, value: bytes) -> Item:
    """Raises Unusable."""
    message = catalog_pb2.ContentItem()
    try:
        message.ParseFromString(value)
    except DecodeError:
        raise Unusable("not a content item") from None
    if f"{message.slug}/{message.locale}" != key or not message.slug.isascii() or not message.locale.isascii():
        raise Unusable("its slug and locale are not its key")
    return Item(
        slug=message.slug,
        locale=message.locale,
        title=message.title,
        body=message.body,
        version=message.version,
        max_age_s=message.max_age_s,
        default_locale=message.default_locale,
    )


def _is_short_ascii(name: str) -> bool:
    return 1 <= len(name) <= 64 and name.isascii() and name.isprintable()
