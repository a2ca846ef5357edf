"""One ad decision, whichever way it was asked for: choose, sign, record."""

import threading
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple, Protocol

import msgspec
from isthmus.events.v1 import events_pb2

from mesh.clock import Clock
from mesh.errors import NotFound
from public_edge.ads.domain import Chooser, Creative, Forms
from public_edge.crawlers import Crawlers
from public_edge.recorder import Recorder, derive
from public_edge.request import Origin
from public_edge.spool.event import Kind

PARTS_MAX = 16_384


class ClickUrls(Protocol):
    def part(self, creative: Creative) -> bytes:
        """What all click URLs of the creative share."""

    def url(self, slot: str, impression_id: bytes, part: bytes, now_us: int) -> str: ...


class Decision(NamedTuple):
    """Without a creative, no campaign may be shown; that the slot was asked for is recorded all the same."""

    impression_id: str
    creative: Creative | None
    # The creative in JSON.
    rendered: bytes
    click_url: str
    # Of the impression in the spool.
    sequence: int | None


_NONE = Decision("", None, b"", "", None)

# Serialized messages joined together are their fields merged (protobuf encoding, "Last One Wins"), so the parts of an
# impression that many share are serialized once.


@lru_cache(PARTS_MAX)
def _asked(node: str, slot: str, crawler: bool) -> bytes:
    return events_pb2.Impression(node=node, slot=slot, crawler=crawler).SerializeToString()


@lru_cache(PARTS_MAX)
def _seen(features: tuple[tuple[str, str], ...]) -> bytes:
    return events_pb2.Impression(features=dict(features)).SerializeToString()


class Decider:
    def __init__(
        self, chooser: Chooser, click_urls: ClickUrls, recorder: Recorder, crawlers: Crawlers, clock: Clock, node: str
    ) -> None:
        self._chooser = chooser
        self._click_urls = click_urls
        self._recorder = recorder
        self._crawlers = crawlers
        self._clock = clock
        self._node = node
        self._choosing = threading.Lock()

    @property
    def waits(self) -> bool:
        """Whether an answer has to wait for the disk, so that only `decide` will do."""
        return self._recorder.waits(Kind.IMPRESSION)

    async def decide(
        self, slot: str, features: Mapping[str, str], viewer: str, source_time_us: int, origin: Origin
    ) -> Decision:
        """Raises NotFound for a slot that no campaign names, Unavailable when the event cannot be recorded."""
        decision = self.decide_at_once(slot, features, viewer, source_time_us, origin)
        await self._recorder.synced(Kind.IMPRESSION, decision.sequence)
        return decision

    def decide_at_once(
        self, slot: str, features: Mapping[str, str], viewer: str, source_time_us: int, origin: Origin
    ) -> Decision:
        """The same in any thread, where no answer waits for the disk."""
        if not self._chooser.index.knows(slot):
            raise NotFound("SLOT_UNKNOWN", "no campaign names this slot")
        now_us = self._clock.now_us()
        digest = derive("impression|" + origin.request_id)
        event_id, seed = digest[:16], int.from_bytes(digest[16:], "big")
        with self._choosing:
            creative = self._chooser.choose(slot, features, viewer, seed, now_us)
        impression_id = event_id.hex()
        crawler = self._crawlers.match(origin.user_agent)
        event = events_pb2.Impression(
            event_id=impression_id, source_time_us=source_time_us or now_us, accepted_time_us=now_us
        )
        body = event.SerializeToString() + _asked(self._node, slot, crawler) + _seen(tuple(features.items()))
        if creative is None:
            return _NONE._replace(sequence=self._recorder.write(Kind.IMPRESSION, event_id, origin.traceparent, body))
        forms = creative.forms or self._forms(creative)
        sequence = self._recorder.write(Kind.IMPRESSION, event_id, origin.traceparent, body + forms.event)
        url = self._click_urls.url(slot, event_id, forms.link, now_us)
        return Decision(impression_id, creative, forms.answer, url, sequence)

    def _forms(self, creative: Creative) -> Forms:
        shown = events_pb2.Impression(campaign_id=creative.campaign_id, creative_id=creative.creative_id)
        answer = {
            "campaign_id": creative.campaign_id,
            "creative_id": creative.creative_id,
            "title": creative.title,
            "image_url": creative.image_url,
        }
        creative.forms = Forms(shown.SerializeToString(), msgspec.json.encode(answer), self._click_urls.part(creative))
        return creative.forms
