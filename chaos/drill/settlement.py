"""The end of a drill: traffic ends, what was left open is completed, the books are read, the oracle judges."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import stamina

from chaos.checkers import audit
from chaos.checkers.oracle import Findings, judge, lost_events
from chaos.checkers.personal import TopicsUnread, in_topics, sightings
from chaos.checkers.verdict import Check
from chaos.drill.crowd import Crowd
from chaos.drill.spec import Expect
from chaos.drill.target import Target
from deploy.local.kafka import broker
from deploy.local.topics import crossing
from mesh.errors import MeshError

READ_ATTEMPTS = 6
READ_WITHIN_S = 60.0
ORDERS_READ_BACK_MAX = 100
LEAVES_WITHIN_S = 20.0
METHODS = (
    "/isthmus.orders.v1.Orders/PlaceOrder",
    "/isthmus.payments.v1.Payments/AuthorizePayment",
    "/isthmus.payments.v1.Payments/CapturePayment",
)

T = TypeVar("T")


@dataclass(frozen=True)
class Measured:
    """In seconds: when the last fault was healed, 0 where none had to be; how long the backlog took to land then."""

    healed_s: float
    landed_after_s: float | None


@dataclass
class Outcome:
    """What the oracle found, and what was measured on the way."""

    checks: tuple[Check, ...]
    landed_after_s: float | None
    settled: bool
    freshness_p50_ms: float = 0.0
    freshness_p99_ms: float = 0.0


async def settled(crowd: Crowd, target: Target, expect: Expect, measured: Measured) -> Outcome:
    """
    Raises:
        MeshError: the books cannot be read.
    """
    await crowd.end()
    promises = crowd.traffic.acknowledged
    findings = Findings(unfinished=await crowd.traffic.settle())
    # Where nothing had to be healed, the time counts from the last request.
    since_s = measured.healed_s or crowd.traffic.now_s
    landed, landed_after_s = await _landed(crowd, crowd.traffic.now_s + expect.landed_within_s), measured.landed_after_s
    if landed_after_s is None:
        landed_after_s = round(crowd.traffic.now_s - since_s, 1)
    findings.missing_orders = await crowd.traffic.missing_orders(ORDERS_READ_BACK_MAX)
    findings.ledger_reads, findings.unbalanced = crowd.ledger.reads, crowd.ledger.unbalanced
    findings.leaves = await _leaves(crowd)
    findings.audit_verifies = await audit.verifies(target.home.root)
    findings.personal_in_public = await asyncio.to_thread(_personal_in_public, target, crowd)
    books = await asked(crowd.books)
    freshness = await asked(crowd.freshness)
    return Outcome(
        judge(promises, books, findings),
        landed_after_s if landed else None,
        not findings.unfinished,
        round(freshness.p50_ms, 1),
        round(freshness.p99_ms, 1),
    )


async def _landed(crowd: Crowd, until_s: float) -> bool:
    """Wait until no acknowledged event is missing; False when one still is at `until_s`."""
    while lost_events(crowd.traffic.acknowledged, await asked(crowd.books)):
        if crowd.traffic.now_s > until_s:
            return False
        await asyncio.sleep(0.5)
    return True


async def _leaves(crowd: Crowd) -> dict[str, set[str]]:
    wanted = {trace for one in crowd.traffic.acknowledged.purchases for _, trace in one.traces}
    ends = time.monotonic() + LEAVES_WITHIN_S
    while True:
        found = await asked(lambda: audit.leaves(crowd.channel, METHODS, crowd.began_us))
        if wanted <= set().union(*found.values()) or time.monotonic() > ends:
            return found
        await asyncio.sleep(1.0)


def _personal_in_public(target: Target, crowd: Crowd) -> list[str]:
    found, topics = sightings(_public_files(target), crowd.personal), [event.topic for event in crossing()]
    settings = broker.client_settings(target.kafka_identity, target.kafka_bootstrap)
    try:
        return found + in_topics(settings, topics, crowd.opened_us // 1000, crowd.personal)
    except TopicsUnread as error:
        return [*found, str(error)]


def _public_files(target: Target) -> list[Path]:
    """What the public zone keeps and says: data, spools, snapshots, logs."""
    home, public = target.home, [one.name for one in target.table.processes if one.zone == "public"]
    places = [at for name in public for at in (home.data(name), home.spool(name), home.run(name), home.log(name))]
    return [place for place in places if place.exists()]


async def asked(read: Callable[[], Awaitable[T]]) -> T:
    """A reading of the books, repeated a few times where it is refused: an operator would look again, too.

    Raises:
        MeshError: it was refused every time.
    """
    async for attempt in stamina.retry_context(
        on=MeshError, attempts=READ_ATTEMPTS, timeout=READ_WITHIN_S, wait_initial=0.3, wait_max=3.0
    ):
        with attempt:
            return await read()
    raise AssertionError("unreachable")
