"""One ad decision, whichever way it was asked for: choose, sign, record."""

import threading
from collections.abc import Mapping
from functools import lru_cache
from typing import Protocol

import msgspec
from isthmus.events.v1 import events_pb2

from mesh.clock import Clock
from mesh.errors import NotFound
from public_edge.ads.domain import Chooser, Creative
from public_edge.recorder import Recorder, derive
from public_edge.request import Origin
from public_edge.spool.event import Kind

PARTS_MAX = 16_384


class ClickUrls(Protocol):
    def part(self, creative: Creative) -> bytes:
        """What all click URLs of the creative share."""

    def url(self, slot: str, impression_id: bytes, part: bytes, now_us: int) -> bytes: ...


class Features(msgspec.Struct, frozen=True, gc=False):
    """What a request says of its user: by name, and as it stands in an impression."""

    values: Mapping[str, str] = {}
    event: bytes = b""

    @classmethod
    def of(cls, values: Mapping[str, str]) -> "Features":
        return cls(values, b"".join(map(_said, values.items())))


class Asked(msgspec.Struct, frozen=True, gc=False):
    """What is asked for. source_time_us: microseconds since the epoch; 0: now."""

    slot: str
    features: Features = Features()
    viewer: str = ""
    source_time_us: int = 0


class Decision(msgspec.Struct, gc=False):
    """Without a creative, no campaign may be shown; that the slot was asked for is recorded all the same."""

    # Of the impression in the spool.
    sequence: int | None
    creative: Creative | None = None
    impression_id: str = ""
    click_url: bytes = b""


# Serialized messages joined together are their fields merged (protobuf encoding, "Last One Wins"), so the parts of an
# impression that many share are serialized once.


@lru_cache(PARTS_MAX)
def _where(node: str, slot: str, crawler: bool) -> bytes:
    return events_pb2.Impression(node=node, slot=slot, crawler=crawler).SerializeToString()


@lru_cache(PARTS_MAX)
def _said(feature: tuple[str, str]) -> bytes:
    """Name and value. Of each by itself: what users say is rarely the same in all."""
    return events_pb2.Impression(features=dict([feature])).SerializeToString()


class Decider:
    def __init__(self, chooser: Chooser, click_urls: ClickUrls, recorder: Recorder, clock: Clock, node: str) -> None:
        self._chooser = chooser
        self._click_urls = click_urls
        self._recorder = recorder
        self._clock = clock
        self._node = node
        self._choosing = threading.Lock()
        # What no two impressions share. Used again for each, which takes half of what making one takes.
        self._own = events_pb2.Impression()

    @property
    def waits(self) -> bool:
        """Whether an answer has to wait for the disk, so that only `decide` will do."""
        return self._recorder.waits(Kind.IMPRESSION)

    async def decide(self, asked: Asked, origin: Origin) -> Decision:
        """Raises NotFound for a slot that no campaign names, Unavailable when the event cannot be recorded."""
        decision = self.decide_at_once(asked, origin)
        await self._recorder.synced(Kind.IMPRESSION, decision.sequence)
        return decision

    def decide_at_once(self, asked: Asked, origin: Origin) -> Decision:
        """The same in any thread, where no answer waits for the disk."""
        slot, features = asked.slot, asked.features
        if not self._chooser.index.knows(slot):
            raise NotFound("SLOT_UNKNOWN", "no campaign names this slot")
        now_us = self._clock.now_us()
        digest = derive("impression|" + origin.request_id)
        event_id, seed = digest[:16], int.from_bytes(digest[16:], "big")
        impression_id = event_id.hex()
        with self._choosing:
            creative = self._chooser.choose(slot, features.values, asked.viewer, seed, now_us)
            event = self._own
            event.event_id = impression_id
            event.source_time_us = asked.source_time_us or now_us
            event.accepted_time_us = now_us
            body = event.SerializeToString()
        body += _where(self._node, slot, origin.bot is not None) + features.event
        if creative is None:
            return Decision(self._recorder.write(Kind.IMPRESSION, event_id, origin.traceparent, body))
        if not creative.answer:
            self._show_first(creative)
        sequence = self._recorder.write(Kind.IMPRESSION, event_id, origin.traceparent, body + creative.event)
        return Decision(sequence, creative, impression_id, self._click_urls.url(slot, event_id, creative.link, now_us))

    def _show_first(self, creative: Creative) -> None:
        shown = events_pb2.Impression(campaign_id=creative.campaign_id, creative_id=creative.creative_id)
        creative.event = shown.SerializeToString()
        creative.link = self._click_urls.part(creative)
        fields = {
            "campaign_id": creative.campaign_id,
            "creative_id": creative.creative_id,
            "title": creative.title,
            "image_url": creative.image_url,
        }
        # The last of the three: another thread that sees it finds the others.
        creative.answer = b'","creative":%b,"click_url":"' % msgspec.json.encode(fields)
