"""Reading one content item, whichever way it was asked for: find, record the view."""

from collections.abc import Sequence

from isthmus.events.v1 import events_pb2

from mesh.clock import Clock
from mesh.errors import NotFound
from public_edge.content.domain import Library, Page, is_unchanged
from public_edge.recorder import Recorder, derive
from public_edge.request import Origin
from public_edge.spool.event import Kind


class Reader:
    """`library` may be replaced by another at any time."""

    def __init__(self, recorder: Recorder, clock: Clock, node: str) -> None:
        self.library = Library()
        self._recorder = recorder
        self._clock = clock
        self._node = node

    def find(self, slug: str, locales: Sequence[str]) -> Page:
        """The page for the reader's locales, the most wanted first. Raises NotFound."""
        page = self.library.find(slug, locales)
        if page is None:
            raise NotFound("CONTENT_UNKNOWN", "there is no such item")
        return page

    async def read(
        self, slug: str, locales: Sequence[str], if_none_match: str | None, source_time_us: int, origin: Origin
    ) -> tuple[Page, bool]:
        """The page, and whether the reader's cache has it already. The view is recorded either way. Raises NotFound."""
        page, unchanged, sequence = self._read(slug, locales, if_none_match, source_time_us, origin)
        await self._recorder.synced(Kind.CONTENT_VIEW, sequence)
        return page, unchanged

    def _read(
        self, slug: str, locales: Sequence[str], if_none_match: str | None, source_time_us: int, origin: Origin
    ) -> tuple[Page, bool, int | None]:
        page = self.find(slug, locales)
        unchanged = if_none_match is not None and is_unchanged(if_none_match, page.etag)
        now_us = self._clock.now_us()
        event_id = derive("content-view|" + origin.request_id)[:16]
        event = events_pb2.ContentView(
            event_id=event_id.hex(),
            source_time_us=source_time_us or now_us,
            accepted_time_us=now_us,
            node=self._node,
            slug=page.item.slug,
            locale=page.item.locale,
            version=page.item.version,
            not_modified=unchanged,
            crawler=origin.bot is not None,
        )
        sequence = self._recorder.write(Kind.CONTENT_VIEW, event_id, origin.traceparent, event.SerializeToString())
        return page, unchanged, sequence
