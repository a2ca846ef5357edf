"""One run of the rows through a running mesh: publish, wait until it is live, play, and compare the books."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from chaos.checkers.books import Books, Channel, Freshness, read_freshness, read_settled, read_until
from chaos.checkers.expected import Expected, expected
from chaos.checkers.operator import operator as operator_of
from chaos.checkers.verdict import Check, Evidence, Loss, held, judge, landed, loss
from chaos.demo.faults import Broken, Faults, edge_nodes, nodes_to_kill
from chaos.demo.screen import Screen
from chaos.load import audience, storefront
from chaos.load.audience import Audience
from chaos.load.catalog import MARKER, Catalog, catalog
from chaos.load.client import PublicClient
from chaos.load.outcomes import CallFailed, Outcomes
from chaos.load.pace import Pace
from chaos.load.rows import Rows
from chaos.load.shoppers import play_purchases
from chaos.load.storefront import CLIENT_ID, SCOPE, Storefront
from chaos.load.token import PatientToken
from chaos.load.transactions import by_customer
from deploy.local import topology
from deploy.local.mesh import LocalMesh

# More would only wait in line on two cores, and a Kafka that comes back would wait with them.
VIEWERS_AT_ONCE = 6
SHOPPERS_AT_ONCE = 12
PUBLISHERS_AT_ONCE = 8
LIVE_WITHIN_S = 120.0
# The gateway chooses a node for each request. So many good answers in a row for each node leave no node out:
# of six nodes, one would stay unseen in one of a thousand million runs.
LIVE_ANSWERS_PER_NODE = 20
LANDED_WITHIN_S = 90.0
REFRESH_S = 0.2


@dataclass(frozen=True)
class Verdict:
    checks: tuple[Check, ...]
    books: Books
    loss: Loss
    freshness: Freshness
    evidence: Evidence

    @property
    def ok(self) -> bool:
        return held(self.checks)


class Replay:
    """`run` names the run: its idempotency keys and phone numbers are its own, so a home may see many runs."""

    def __init__(self, mesh: LocalMesh, rows: Rows, screen: Screen, seed: int = 7) -> None:
        self.run = secrets.token_hex(4)
        self.expected: Expected = expected(rows.impressions, rows.purchases)
        self.outcomes = Outcomes()
        self.broken = Broken()
        self._mesh = mesh
        self._rows = rows
        self._screen = screen
        self._seed = seed
        self._catalog: Catalog = catalog(rows.impressions, self.run)
        self._pages_before = 0
        self._nodes_to_kill = 0
        self._began_us = 0
        self._before: Books | None = None

    async def play(self, faults: bool = True) -> None:
        """
        Raises:
            CallFailed: the catalogue could not be published or did not become live; traffic has not begun then.
        """
        mesh = self._mesh
        async with operator(mesh) as channel:
            self._before = await read_settled(channel)
        root = mesh.home.root / "ca" / "public" / "root.pem"
        key = mesh.home.run("oauth") / "clients" / f"{CLIENT_ID}.pem"
        async with PublicClient(mesh.urls["edge_gateway"], root, VIEWERS_AT_ONCE + SHOPPERS_AT_ONCE) as client:
            shop = Storefront(PatientToken(client, CLIENT_ID, key, SCOPE), self.outcomes, self.run)
            public = Audience(client, self.outcomes, self._catalog.landings)
            campaigns, pages = len(self._catalog.campaigns), len(self._catalog.items)
            with self._screen.phase(f"Publishing {campaigns} campaigns and {pages} pages"):
                await self._publish(shop)
            with self._screen.phase("Waiting until every edge node serves them"):
                await self._wait_live(public)
            self._began_us = time.time_ns() // 1000
            await self._traffic(shop, public, faults)

    async def verify(self, deadline_s: float = LANDED_WITHIN_S) -> Verdict:
        """Read the books until everything has landed or the deadline is over, and judge them.

        Raises:
            MeshError: a service of the private zone did not answer.
        """
        assert self._before is not None, "play comes first"
        before = self._before

        def complete(now: Books) -> bool:
            return landed(self.expected, self._ours(now.since(before)), self._pages_before)

        async with operator(self._mesh) as channel:
            books = await read_until(channel, complete, deadline_s)
            freshness = await read_freshness(channel, self._began_us)
        added = self._ours(books.since(before))
        evidence = self._evidence()
        checks = judge(self.expected, added, evidence)
        return Verdict(checks, added, loss(self.expected, added, self._pages_before), freshness, evidence)

    async def _publish(self, shop: Storefront) -> None:
        """Pages, then campaigns, then the marker: it comes last, so a node that shows it has all that came before."""
        *campaigns, marker = self._catalog.campaigns
        at_once = asyncio.Semaphore(PUBLISHERS_AT_ONCE)

        async def publish(call: Awaitable[None]) -> None:
            async with at_once:
                await call

        await asyncio.gather(*(publish(shop.publish_item(item)) for item in self._catalog.items[:-1]))
        await shop.publish_item(self._catalog.items[-1])
        await asyncio.gather(*(publish(shop.publish_campaign(campaign)) for campaign in campaigns))
        await shop.publish_campaign(marker)

    async def _wait_live(self, public: Audience) -> None:
        """Ask until the answers of all nodes are of this edition."""
        wanted = LIVE_ANSWERS_PER_NODE * len(edge_nodes(self._mesh))
        in_a_row, ends = 0, time.monotonic() + LIVE_WITHIN_S
        while in_a_row < wanted:
            if time.monotonic() > ends:
                raise CallFailed(f"the catalogue is not live on every edge node after {LIVE_WITHIN_S:g} s")
            live = await asyncio.gather(*(self._is_live(public) for _ in range(VIEWERS_AT_ONCE)))
            in_a_row = in_a_row + len(live) if all(live) else 0
            if not in_a_row:
                await asyncio.sleep(0.1)

    async def _is_live(self, public: Audience) -> bool:
        """Whether the nodes that answer show the last campaign and the last page of this edition."""
        last = self._catalog.items[-1]
        try:
            ad = await public.ad(MARKER, {}, 0)
            page = await self._page(public, last.slug, last.locale)
        except CallFailed:
            return False
        return self.run in ad.creative.title and self.run.encode() in page

    async def _page(self, public: Audience, slug: str, locale: str) -> bytes:
        body = await public.page(slug, locale, 0, whole=True)
        self._pages_before += 1
        return body

    async def _traffic(self, shop: Storefront, public: Audience, faults: bool) -> None:
        customers = by_customer(self._rows.purchases)
        pace = Pace(len(self._rows.impressions), len(self._rows.purchases))
        breaking = Faults(self._mesh, pace, self._seed, self._screen.say)
        self.broken = breaking.broken
        self._screen.watch(impressions=pace.impressions, purchases=pace.purchases)
        with self._screen.phase("Playing the rows"):
            streams = [
                asyncio.create_task(public.play(self._rows.impressions, pace, VIEWERS_AT_ONCE)),
                asyncio.create_task(play_purchases(shop, customers, pace, SHOPPERS_AT_ONCE)),
            ]
            if faults:
                self._nodes_to_kill = nodes_to_kill(len(edge_nodes(self._mesh)))
                streams.append(asyncio.create_task(breaking.run()))
            refresh = asyncio.create_task(self._refresh())
            try:
                await asyncio.gather(*streams)
            finally:
                for task in (*streams, refresh):
                    task.cancel()
                self._screen.refresh()

    async def _refresh(self) -> None:
        while True:
            self._screen.refresh()
            await asyncio.sleep(REFRESH_S)

    def _ours(self, books: Books) -> Books:
        """Without the marker, which is no row of the files."""
        slots = {slot: traffic for slot, traffic in books.slots.items() if slot != MARKER}
        campaigns = {name: traffic for name, traffic in books.campaigns.items() if name != MARKER}
        return replace(books, slots=slots, campaigns=campaigns)

    def _evidence(self) -> Evidence:
        broken = self.broken
        return Evidence(
            public_failures=self.outcomes.not_ok(*audience.KINDS),
            sensitive_failures=self.outcomes.not_ok(*storefront.KINDS),
            pages_before=self._pages_before,
            edge_nodes_to_kill=self._nodes_to_kill,
            edge_nodes_killed=len(broken.killed),
            edge_nodes_not_back=len(broken.killed) - len(broken.back),
            kafka_outages=broken.kafka_outages,
            kafka_outage_seconds=round(broken.kafka_outage_seconds, 1),
        )


@asynccontextmanager
async def operator(mesh: LocalMesh) -> AsyncIterator[Channel]:
    """The operator's channels into a mesh of our own."""
    async with operator_of(mesh.home, topology.read(mesh.home.topology)) as channel:
        yield channel
