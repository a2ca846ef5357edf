"""Turns changed records into the index and the library that the rooms read, and exchanges them in one step."""

from collections.abc import Mapping

from mesh.clock import Clock
from mesh.logs import logger
from public_edge.ads.catalogue import Catalogue
from public_edge.ads.domain import Campaign, Chooser
from public_edge.content.domain import Item, Shelf
from public_edge.content.reading import Reader
from public_edge.snapshot import convert
from public_edge.snapshot.convert import Unusable
from public_edge.snapshot.state import Key, Source


class Publisher:
    """Belongs to the snapshot's thread; the rooms only ever see finished values."""

    def __init__(self, catalogue: Catalogue, shelf: Shelf, chooser: Chooser, reader: Reader, clock: Clock) -> None:
        self._catalogue = catalogue
        self._shelf = shelf
        self._chooser = chooser
        self._reader = reader
        self._clock = clock
        self._log = logger("snapshot")
        # Records refused since the start.
        self.unusable = 0

    @property
    def campaigns(self) -> int:
        return len(self._catalogue)

    @property
    def content_items(self) -> int:
        return len(self._shelf)

    def publish(self, changes: Mapping[Key, bytes | None]) -> None:
        """A refused record leaves what was there before it."""
        campaigns: dict[str, Campaign | None] = {}
        items: dict[str, Item | None] = {}
        for (source, key), value in changes.items():
            try:
                if source is Source.CAMPAIGN:
                    campaigns[key] = None if value is None else convert.campaign(key, value)
                else:
                    items[key] = None if value is None else convert.content_item(key, value)
            except Unusable as error:
                self.unusable += 1
                self._log.warning("record refused", source=source.name, key=key[:64], why=str(error))
        if campaigns:
            self._catalogue.apply(campaigns, self._clock.now_us())
            self._chooser.index = self._catalogue.index()
        if items:
            self._shelf.apply(items)
            self._reader.library = self._shelf.library()

    def advance(self) -> None:
        """Take in begun, ended and exhausted campaigns. To be called several times a second."""
        waiting = self._chooser.exhausted
        exhausted = [waiting.popleft() for _ in range(len(waiting))]
        if self._catalogue.advance(self._clock.now_us(), exhausted):
            self._chooser.index = self._catalogue.index()
