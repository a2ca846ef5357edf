"""An edge node's HTTP application over a real spool and a small snapshot, without sockets."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec

from mesh.contract import load
from mesh.contract.model import RateLimit
from public_edge.ads import http as ads_http
from public_edge.ads.catalogue import Catalogue, Share
from public_edge.ads.decision import Decider
from public_edge.ads.domain import Campaign, Chooser, Creative
from public_edge.clicks import http as clicks_http
from public_edge.clicks.domain import KeyRing, Signer
from public_edge.clicks.following import Follower
from public_edge.content import http as content_http
from public_edge.content.domain import Item, Shelf
from public_edge.content.reading import Reader
from public_edge.content.receipts import Receipts
from public_edge.http.app import EdgeApp
from public_edge.http.bots import BotRates
from public_edge.node.click_urls import SignedClickUrls
from public_edge.recorder import Recorder
from public_edge.spool.event import Event, Kind, unpack
from public_edge.spool.reader import SpoolReader
from public_edge.spool.spool import Spool, SpoolLimits

NOW_US = 1_700_000_000_000_000
KEY = b"k" * 32
BOTS_BURST = 20


class StoppedClock:
    def __init__(self) -> None:
        self.us = NOW_US

    def now_us(self) -> int:
        return self.us

    def monotonic(self) -> float:
        return self.us / 1e6


@dataclass
class Answer:
    """Plays granian's protocol object and keeps what was sent."""

    body_sent: bytes
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    async def __call__(self) -> bytes:
        return self.body_sent

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for at in range(0, len(self.body_sent), 4096):
            yield self.body_sent[at : at + 4096]

    def response_empty(self, status: int, headers: list[tuple[str, str]]) -> None:
        self.status, self.headers = status, dict(headers)

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status, self.headers, self.body = status, dict(headers), body

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


@dataclass
class Asked:
    """Plays granian's scope."""

    method: str
    path: str
    query_string: str
    headers: dict[str, str]
    proto: str = "http"


class EdgeRoom:
    def __init__(self, directory: Path, limits: SpoolLimits | None = None) -> None:
        self.spool = Spool(directory, limits)
        self.clock = StoppedClock()
        self.signer = Signer(KeyRing(1, {1: KEY}))
        self.chooser = Chooser()
        catalogue = Catalogue(Share())
        creative = Creative("shoes", "shoes-1", "Shoes", "https://images.example/1", "https://shop.example/shoes")
        catalogue.apply({"shoes": Campaign("shoes", ("top",), (creative,))}, NOW_US)
        self.chooser.index = catalogue.index()
        recorder = Recorder(self.spool, load())
        reader = Reader(recorder, self.clock, "edge-1")
        shelf = Shelf()
        shelf.apply({"about/en": Item("about", "en", "About", "<p>us</p>", 3, 60, True)})
        reader.library = shelf.library()
        urls = SignedClickUrls(self.signer, "https://edge.example", 3600)
        self.decider = Decider(self.chooser, urls, recorder, self.clock, "edge-1")
        self.follower = Follower(self.signer, self.chooser, recorder, self.clock, "edge-1")
        self.reader = reader
        receipts = content_http.receipt_route(Receipts(recorder, self.clock, "edge-1"))
        routes = (ads_http.route(self.decider), clicks_http.route(self.follower), content_http.route(reader), receipts)
        self.app = EdgeApp(routes, BotRates(RateLimit(per_second=10, burst=BOTS_BURST), self.clock.monotonic))

    async def ask(self, method: str, target: str, body: bytes = b"", **headers: str) -> Answer:
        path, _, query = target.partition("?")
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if method == "POST":
            sent.setdefault("content-type", "application/json")
            sent.setdefault("content-length", str(len(body)))
        answer = Answer(body)
        async with asyncio.timeout(5):
            scope: Any = Asked(method, unquote(path), query, sent)
            if not self.app.answer_at_once(scope, answer):
                await self.app.__rsgi__(scope, answer)
        return answer

    def events(self) -> list[Event]:
        reader = SpoolReader(self.spool)
        found = [unpack(record.payload) for record in reader.read()]
        reader.close()
        return found

    def kinds(self) -> list[Kind]:
        return [Kind(event.kind) for event in self.events()]
