"""Behaviour is kept for as long as the contract says, and not longer."""

import time
from collections.abc import Sequence
from typing import cast

import psycopg

from mesh import contract
from sync_bridge.inbound.decoder import Decoder
from sync_bridge.inbound.domain import Record, Watermarks
from sync_bridge.inbound.retention import ADVISORY_LOCK, Kept, kept, sweep
from sync_bridge.inbound.store import Store
from sync_bridge.inbound.tables import TABLES, by_topic
from sync_bridge.kafka import libpq_url
from tests.integration.bridge import events
from tests.integration.bridge.records import record

BY_TOPIC = by_topic(contract.load())
DAY_US = 24 * 3600 * 1_000_000


def land(database_url: str, ages_days: Sequence[float]) -> None:
    store = Store(libpq_url(database_url), "worker", 10.0, TABLES)
    clicks = [events.click(number) for number in range(len(ages_days))]
    for click, days in zip(clicks, ages_days, strict=True):
        click.accepted_time_us = int(time.time() * 1e6 - days * DAY_US)
    topic = events.topic_of(clicks[0])
    claim = store.claim({(topic, 0): Watermarks(0, 1000)}, {topic: "topic-1"})[topic, 0]
    records = cast("Sequence[Record]", [record(click, offset) for offset, click in enumerate(clicks)])
    store.land(Decoder(BY_TOPIC).batch(records, {(topic, 0): 0}), {(topic, 0): claim})
    store.close()


def test_the_contract_says_how_long_what_is_kept() -> None:
    wanted = kept(contract.load(), BY_TOPIC)
    assert wanted.days == {"impression": 30, "click": 30, "content_view": 30, "spool_ledger": 30}
    assert wanted.ledger_days == 30


def test_what_is_older_than_the_contract_keeps_goes_with_its_ledger(
    database_url: str, database: psycopg.Connection
) -> None:
    land(database_url, [0, 29.9, 30.1, 31, 400])
    wanted = kept(contract.load(), BY_TOPIC)
    assert sweep(database, wanted) == {"bridge.ledger": 3, "warehouse.click": 3}
    assert sweep(database, wanted) == {}
    assert database.execute("SELECT count(*) FROM warehouse.click").fetchone() == (2,)
    assert database.execute("SELECT count(*) FROM bridge.ledger").fetchone() == (2,)


def test_what_is_kept_for_ever_stays(database_url: str, database: psycopg.Connection) -> None:
    land(database_url, [4000])
    assert sweep(database, Kept({"click": 0}, 0)) == {}
    assert database.execute("SELECT count(*) FROM warehouse.click").fetchone() == (1,)


def test_one_worker_sweeps_at_a_time(database_url: str, database: psycopg.Connection) -> None:
    land(database_url, [31])
    with psycopg.connect(libpq_url(database_url), autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (ADVISORY_LOCK,))
        assert sweep(database, kept(contract.load(), BY_TOPIC)) == {}
