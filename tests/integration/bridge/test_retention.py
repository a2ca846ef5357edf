"""Behaviour is kept for as long as the contract says, and not longer."""

import time
from collections.abc import Sequence
from typing import Literal, cast

import psycopg

from mesh import contract
from sync_bridge.inbound.decoder import Decoder
from sync_bridge.inbound.domain import Record, Watermarks
from sync_bridge.inbound.retention import ADVISORY_LOCK, Kept, kept, sweep
from sync_bridge.inbound.store import Store
from sync_bridge.inbound.tables import TABLES, by_topic
from sync_bridge.kafka import libpq_url
from sync_bridge.ledger.dead_letters import DeadLetter, bury
from tests.integration.bridge import events
from tests.integration.bridge.records import record
from tests.integration.removing import remover
from tests.integration.room import own

BY_TOPIC = by_topic(contract.load())
DAY_US = 24 * 3600 * 1_000_000
BRIDGE = remover(workload="bridge-inbound")


def land(database_url: str, ages_days: Sequence[float]) -> None:
    store = Store(libpq_url(own(database_url, "bridge-inbound")), "worker", 10.0, TABLES)
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
    assert wanted.days == dict.fromkeys((table.name for table in BY_TOPIC.values()), 30)
    assert wanted.ledger_days == 30


def test_what_is_older_than_the_contract_keeps_goes_with_its_ledger(
    database_url: str, database: psycopg.Connection
) -> None:
    land(database_url, [0, 29.9, 30.1, 31, 400])
    wanted = kept(contract.load(), BY_TOPIC)
    assert sweep(database, wanted, BRIDGE) == {"bridge.ledger": 3, "warehouse.click": 3}
    assert sweep(database, wanted, BRIDGE) == {}
    assert database.execute("SELECT count(*) FROM warehouse.click").fetchone() == (2,)
    assert database.execute("SELECT count(*) FROM bridge.ledger").fetchone() == (2,)
    said = database.execute("SELECT reason, workload FROM audit.record ORDER BY sequence").fetchall()
    assert said == [("REMOVED 3 bridge.ledger", "bridge-inbound"), ("REMOVED 3 warehouse.click", "bridge-inbound")]


def test_what_is_kept_for_ever_stays(database_url: str, database: psycopg.Connection) -> None:
    land(database_url, [4000])
    assert sweep(database, Kept({"click": 0}, 0), BRIDGE) == {}
    assert database.execute("SELECT count(*) FROM warehouse.click").fetchone() == (1,)


def test_one_worker_sweeps_at_a_time(database_url: str, database: psycopg.Connection) -> None:
    land(database_url, [31])
    with psycopg.connect(libpq_url(database_url), autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (ADVISORY_LOCK,))
        assert sweep(database, kept(contract.load(), BY_TOPIC), BRIDGE) == {}


def test_what_dead_letters_hold_goes_and_that_they_were_stays(database: psycopg.Connection) -> None:
    click = next(topic for topic, table in BY_TOPIC.items() if table.name == "click")
    ways: list[tuple[Literal["inward", "outward"], str]] = [("inward", click), ("inward", click), ("outward", "item")]
    headers = [("node", b"n"), ("who", b"x")]
    letters = [
        DeadLetter(direction, topic, None, number, None, "CAUSE", "", b"key", b"payload", headers)
        for number, (direction, topic) in enumerate(ways)
    ]
    bury(database, letters)
    database.execute("UPDATE bridge.dead_letter SET state = 'replayed', settled_time = now() WHERE position = 1")
    wanted = kept(contract.load(), BY_TOPIC)
    emptied = "SELECT position, state, reason FROM bridge.dead_letter WHERE payload IS NULL ORDER BY position"
    # What was stopped on its way out may be of any class, and so goes as the highest.
    for days, removed, gone in (
        (6, 0, []),
        (8, 1, [(2, "dropped", "kept for long enough")]),
        (29, 0, [(2, "dropped", "kept for long enough")]),
        (31, 2, [(0, "dropped", "kept for long enough"), (1, "replayed", ""), (2, "dropped", "kept for long enough")]),
        (32, 0, [(0, "dropped", "kept for long enough"), (1, "replayed", ""), (2, "dropped", "kept for long enough")]),
    ):
        assert sweep(database, wanted, remover(days)).get("bridge.dead_letter", 0) == removed
        assert database.execute(emptied).fetchall() == gone
    kept_of_it = database.execute("SELECT DISTINCT record_key, headers FROM bridge.dead_letter").fetchall()
    assert kept_of_it == [(None, [{"name": "node", "value": "n"}])]
