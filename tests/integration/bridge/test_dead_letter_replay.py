"""A dead letter can land after all, once; and what was given up is erased but stays on record."""

from collections.abc import Iterator, Sequence
from typing import cast

import psycopg
import pytest
from isthmus.events.v1 import events_pb2

from mesh import contract
from sync_bridge.inbound.decoder import Decoder
from sync_bridge.inbound.domain import Record, Tally, Watermarks
from sync_bridge.inbound.replay import replay
from sync_bridge.inbound.store import Store
from sync_bridge.inbound.tables import SPOOL_LEDGER, TABLES, by_topic
from sync_bridge.kafka import libpq_url
from sync_bridge.ledger import conservation, settlement
from sync_bridge.ledger.settlement import Selection
from tests.integration.bridge import events
from tests.integration.bridge.records import Fetched, record
from tests.integration.room import own

TOPIC = events.topic_of(events.click(0))
PLACE = (TOPIC, 0)
BY_TOPIC = by_topic(contract.load())
DECODER = Decoder(BY_TOPIC)
EVERY = Selection(all=True)
COUNTED = {topic: table.name for topic, table in BY_TOPIC.items() if table is not SPOOL_LEDGER}
OWN = next(topic for topic, table in BY_TOPIC.items() if table is SPOOL_LEDGER)


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store(libpq_url(own(database_url, "bridge-inbound")), "worker", 10.0, TABLES)
    yield store
    store.close()


def land(store: Store, records: Sequence[Fetched]) -> Tally:
    claim = store.claim({PLACE: Watermarks(0, 1000)}, {TOPIC: "topic-1"})[PLACE]
    batch = DECODER.batch(cast("Sequence[Record]", records), {PLACE: claim.next_offset})
    return store.land(batch, {PLACE: claim})[PLACE]


def refuse_slot(database: psycopg.Connection, slot: str) -> None:
    database.execute(f"ALTER TABLE warehouse.click ADD CONSTRAINT refused CHECK (slot <> '{slot}') NOT VALID")


def checkpoint(database: psycopg.Connection) -> tuple[int, ...]:
    found = database.execute(
        "SELECT landed, duplicates, dead_letters FROM bridge.checkpoint WHERE topic = %s", (TOPIC,)
    )
    return tuple(found.fetchall()[0])


def ledger(store: Store) -> list[conservation.Line]:
    with store.transaction() as connection:
        return list(conservation.read(connection, COUNTED, OWN, 0, 0))


def test_letters_land_once_when_what_refused_them_is_mended(store: Store, database: psycopg.Connection) -> None:
    refuse_slot(database, "position-2")
    assert land(store, [record(events.click(n), n) for n in range(9)]) == Tally(landed=6, dead_letters=3)
    failing = replay(store, DECODER, EVERY)
    assert [(letter.position, letter.attempts) for letter in failing.failed] == [(1, 2), (4, 2), (7, 2)]
    assert failing.landed == 0

    database.execute("ALTER TABLE warehouse.click DROP CONSTRAINT refused")
    mended = replay(store, DECODER, EVERY)
    assert (mended.landed, mended.duplicates, mended.failed) == (3, 0, [])
    again = replay(store, DECODER, EVERY)
    assert (again.landed, again.duplicates, again.failed) == (0, 0, [])
    offsets = database.execute(
        "SELECT record_offset FROM warehouse.click WHERE slot = 'position-2' ORDER BY landed_time"
    )
    assert [offset for (offset,) in offsets] == [1, 4, 7]
    assert checkpoint(database) == (9, 0, 0)
    (line,) = ledger(store)
    assert (line.node, line.landed, line.dead_letters, line.rows) == ("edge-1", 9, 0, 9)


def test_a_letter_whose_event_came_another_way_is_settled_and_not_doubled(
    store: Store, database: psycopg.Connection
) -> None:
    refuse_slot(database, "position-2")
    land(store, [record(events.click(1), 0)])
    database.execute("ALTER TABLE warehouse.click DROP CONSTRAINT refused")
    land(store, [record(events.click(1), 1)])
    done = replay(store, DECODER, Selection(topic=TOPIC))
    assert (done.landed, done.duplicates) == (0, 1)
    assert checkpoint(database) == (1, 1, 0)


def test_what_can_never_land_stays_with_its_attempts(store: Store, database: psycopg.Connection) -> None:
    unreadable = Fetched((TOPIC, 0, 0), b"\xff\xff", record(events.click(1), 0).sent_headers)
    land(store, [unreadable, record(events.click(2), 1, kind=b"isthmus.events.v1.Swipe")])
    done = replay(store, DECODER, Selection(cause="UNREADABLE"))
    assert [(letter.cause, letter.attempts, letter.state) for letter in done.failed] == [("UNREADABLE", 2, "open")]
    with store.transaction() as connection:
        kinds = [(letter.kind, letter.attempts) for letter in settlement.list_letters(connection, 0, 10)]
    assert kinds == [("isthmus.events.v1.Click", 2), ("isthmus.events.v1.Swipe", 1)]


def test_a_dropped_letter_is_erased_and_stays_on_record(store: Store, database: psycopg.Connection) -> None:
    land(store, [Fetched((TOPIC, 0, 0), b"\xff\xff", record(events.click(1), 0).sent_headers)])
    with store.transaction() as connection:
        assert settlement.drop(connection, Selection(), "no selection, no letter") == 0
        assert settlement.drop(connection, EVERY, "sent by a broken build") == 1
        assert settlement.drop(connection, EVERY, "again") == 0
        (letter,) = settlement.list_letters(connection, 0, 10)
        found = settlement.get(connection, letter.dead_letter_id)
    assert found is not None
    letter, content = found
    assert (letter.state, letter.reason, letter.origin) == ("dropped", "sent by a broken build", "edge-1")
    assert letter.event_id == events.click(1).event_id
    assert (content.key, content.payload) == (None, None)
    assert replay(store, DECODER, EVERY).failed == []
    (line,) = ledger(store)
    assert (line.landed, line.dead_letters, line.rows) == (0, 1, 0)


def spool_line(number: int, minute_us: int, **counts: int) -> Fetched:
    line = events_pb2.SpoolLedger(
        event_id=events.event_id("line", number),
        accepted_time_us=minute_us + 60_000_000,
        node="edge-1",
        spool="ab",
        minute_us=minute_us,
        topic=TOPIC,
        **counts,
    )
    return record(line, number)


def test_what_the_spools_say_stands_beside_what_landed(store: Store) -> None:
    click = events.click(1)
    minute_us = click.accepted_time_us // 60_000_000 * 60_000_000
    land(store, [record(click, 0)])
    lines = [spool_line(0, minute_us, sent=2), spool_line(1, minute_us, partition=-1, shed=7), spool_line(1, minute_us)]
    claim = store.claim({(OWN, 0): Watermarks(0, 1000)}, {OWN: "topic-2"})[OWN, 0]
    batch = DECODER.batch(cast("Sequence[Record]", lines), {(OWN, 0): 0})
    assert store.land(batch, {(OWN, 0): claim})[OWN, 0] == Tally(landed=2)
    found = {line.partition: line for line in ledger(store)}
    assert (found[0].sent, found[0].landed, found[0].rows, found[0].closed) == (2, 1, 1, True)
    assert (found[-1].shed, found[-1].landed) == (7, 0)


def test_the_ledger_counts_by_node_and_minute_of_acceptance(store: Store) -> None:
    minute_us = 28_333_333 * 60_000_000
    clicks = [events.click(n) for n in range(6)]
    for number, click in enumerate(clicks):
        click.node = f"edge-{number % 2 + 1}"
        click.accepted_time_us = minute_us + number // 4 * 60_000_000 + 59_999_999
    land(store, [record(click, n) for n, click in enumerate([*clicks, clicks[0]])])
    found = [
        (line.node, (line.minute_us - minute_us) // 60_000_000, line.landed, line.duplicates, line.rows)
        for line in ledger(store)
    ]
    assert found == [("edge-1", 0, 2, 1, 2), ("edge-2", 0, 2, 0, 2), ("edge-1", 1, 1, 0, 1), ("edge-2", 1, 1, 0, 1)]
