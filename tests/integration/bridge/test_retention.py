"""Behaviour is kept for as long as the contract says, and not longer."""

import time
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Literal, cast

import psycopg
import pytest

from mesh import contract
from sync_bridge.inbound.decoder import Decoder
from sync_bridge.inbound.domain import Record, Tally, Watermarks
from sync_bridge.inbound.retention import ADVISORY_LOCK, Kept, kept, open_days, sweep
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


def opened(database_url: str) -> Store:
    return Store(libpq_url(own(database_url, "bridge-inbound")), "worker", 10.0, TABLES)


def land(database_url: str, ages_days: Sequence[float]) -> Tally:
    """Clicks that were accepted so many days ago land now, numbered from 0."""
    with closing(opened(database_url)) as store:
        return land_in(store, ages_days)


def land_in(store: Store, ages_days: Sequence[float]) -> Tally:
    clicks = [events.click(number) for number in range(len(ages_days))]
    for click, days in zip(clicks, ages_days, strict=True):
        click.accepted_time_us = int(time.time() * 1e6 - days * DAY_US)
    topic = events.topic_of(clicks[0])
    claim = store.claim({(topic, 0): Watermarks(0, 1000)}, {topic: "topic-1"})[topic, 0]
    records = [record(click, claim.next_offset + number) for number, click in enumerate(clicks)]
    batch = Decoder(BY_TOPIC).batch(cast("Sequence[Record]", records), {(topic, 0): claim.next_offset})
    return store.land(batch, {(topic, 0): claim})[topic, 0]


def count(database: psycopg.Connection, table: str) -> int:
    return database.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0]  # type: ignore[no-any-return]


def test_the_contract_says_how_long_what_is_kept() -> None:
    wanted = kept(contract.load(), BY_TOPIC)
    assert wanted.days == dict.fromkeys((table.name for table in BY_TOPIC.values()), 30)
    assert wanted.ledger_days == 30


def test_rows_go_with_the_day_they_landed_on_and_their_ids_after_them(
    database_url: str, database: psycopg.Connection
) -> None:
    land(database_url, [0, 0, 0])
    wanted = kept(contract.load(), BY_TOPIC)
    # So many days from now. Thirty days after a row has landed, some of its day may be kept for less.
    assert sweep(database, wanted, remover(29, workload="bridge-inbound")) == {}
    assert count(database, "warehouse.click") == 3
    gone = sweep(database, wanted, remover(31, workload="bridge-inbound"))
    assert gone == {"bridge.ledger": 1, "warehouse.click": 3}
    assert count(database, "warehouse.click") == 0
    # Of an event that comes once more it is still known that it was there.
    assert land(database_url, [0, 0, 0]) == Tally(duplicates=3)
    gone = sweep(database, wanted, remover(33, workload="bridge-inbound"))
    assert gone == {"bridge.ledger": 1, "warehouse.click_id": 3}
    said = database.execute("SELECT reason FROM audit.record ORDER BY sequence").fetchall()
    today = datetime.now(UTC).date()
    assert [reason for (reason,) in said] == [
        "REMOVED 1 bridge.ledger",
        f"REMOVED 3 warehouse.click landed on {today}",
        "REMOVED 1 bridge.ledger",
        "REMOVED 3 warehouse.click_id",
    ]


def test_a_clock_of_the_edge_neither_keeps_a_row_nor_removes_it(
    database_url: str, database: psycopg.Connection
) -> None:
    land(database_url, [9000, -9000])
    wanted = kept(contract.load(), BY_TOPIC)
    assert sweep(database, wanted, BRIDGE) == {"bridge.ledger": 1}
    assert count(database, "warehouse.click") == 2
    assert sweep(database, wanted, remover(31)) == {"warehouse.click": 2}


def test_what_lands_on_a_day_that_nobody_has_opened_moves_to_it_later(
    database_url: str, database: psycopg.Connection
) -> None:
    today = f"warehouse.click_{datetime.now(UTC):%Y%m%d}"
    database.execute(f"DROP TABLE {today}")
    land(database_url, [0, 0])
    assert count(database, "warehouse.click_other") == 2
    with psycopg.connect(libpq_url(own(database_url, "bridge-inbound")), autocommit=True) as worker:
        open_days(worker, [table.name for table in TABLES])
        open_days(worker, ["click"])
    assert (count(database, "warehouse.click_other"), count(database, today)) == (0, 2)
    assert land(database_url, [0, 0]) == Tally(duplicates=2)


def test_rows_land_while_the_next_days_are_opened(database_url: str) -> None:
    with closing(opened(database_url)) as store, psycopg.connect(libpq_url(database_url)) as opening:
        opening.execute("SELECT warehouse.open_days('click', clock_timestamp(), 4)")
        assert land_in(store, [0]) == Tally(landed=1)


def test_a_table_that_is_read_keeps_its_day_until_the_next_sweep(
    database_url: str, database: psycopg.Connection
) -> None:
    land(database_url, [0])
    wanted = Kept({"click": 30}, 0)
    with psycopg.connect(libpq_url(database_url)) as reader:
        reader.execute("SELECT count(*) FROM warehouse.click")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            sweep(database, wanted, remover(31))
    assert sweep(database, wanted, remover(31)) == {"warehouse.click": 1}


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
