"""Rows, dead letters and offsets are one transaction, and only the newest holder of a partition can make it."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import cast
from uuid import UUID

import psycopg
import pytest

from mesh import contract
from sync_bridge.inbound.decoder import Decoder
from sync_bridge.inbound.domain import Claim, Fenced, GapError, Record, Tally, Watermarks
from sync_bridge.inbound.store import Batch, Store
from sync_bridge.inbound.tables import TABLES, by_topic
from sync_bridge.kafka import libpq_url
from tests.integration.bridge import events
from tests.integration.bridge.records import Fetched, record
from tests.integration.room import own

TOPIC = events.topic_of(events.click(0))
PLACE = (TOPIC, 0)
IDS = {TOPIC: "topic-1"}


@pytest.fixture
def store(database_url: str) -> Iterator[Callable[[str], Store]]:
    opened: list[Store] = []

    def open_store(worker: str) -> Store:
        opened.append(Store(libpq_url(own(database_url, "bridge-inbound")), worker, 10.0, TABLES))
        return opened[-1]

    yield open_store
    for each in opened:
        each.close()


def batch(records: Sequence[Fetched], claim: Claim) -> Batch:
    return Decoder(by_topic(contract.load())).batch(cast("Sequence[Record]", records), {PLACE: claim.next_offset})


def claim(store: Store, low: int = 0, high: int = 1000) -> Claim:
    return store.claim({PLACE: Watermarks(low, high)}, IDS)[PLACE]


def land(store: Store, held: Claim, records: Sequence[Fetched]) -> Tally:
    return store.land(batch(records, held), {PLACE: held})[PLACE]


def rows(database: psycopg.Connection) -> int:
    return database.execute("SELECT count(*) FROM warehouse.click").fetchall()[0][0]  # type: ignore[no-any-return]


def checkpoint(database: psycopg.Connection) -> tuple[int, ...]:
    (found,) = database.execute(
        "SELECT next_offset, landed, duplicates, dead_letters FROM bridge.checkpoint WHERE topic = %s", (TOPIC,)
    ).fetchall()
    return tuple(found)


def test_a_partition_never_seen_begins_where_its_log_does(store: Callable[[str], Store]) -> None:
    assert claim(store("one"), low=17) == Claim(epoch=1, next_offset=17)


def test_a_worker_that_lost_its_partition_can_write_nothing(
    store: Callable[[str], Store], database: psycopg.Connection
) -> None:
    stale, fresh = store("stale"), store("fresh")
    held = claim(stale)
    land(stale, held, [record(events.click(1), 0)])
    taken = claim(fresh)
    assert taken == Claim(epoch=2, next_offset=1)
    with pytest.raises(Fenced):
        land(stale, Claim(held.epoch, 1), [record(events.click(2), 1)])
    assert rows(database) == 1
    assert land(fresh, taken, [record(events.click(2), 1)]) == Tally(landed=1)
    assert checkpoint(database) == (2, 2, 0, 0)


def test_the_same_records_again_from_an_old_offset_are_refused(
    store: Callable[[str], Store], database: psycopg.Connection
) -> None:
    """What a worker would do that does not know that its last commit succeeded."""
    one = store("one")
    held = claim(one)
    land(one, held, [record(events.click(1), 0)])
    with pytest.raises(Fenced):
        land(one, held, [record(events.click(1), 0)])
    assert checkpoint(database) == (1, 1, 0, 0)


def test_an_event_that_is_there_already_is_counted_and_not_doubled(
    store: Callable[[str], Store], database: psycopg.Connection
) -> None:
    one = store("one")
    held = claim(one)
    again = [record(events.click(1), 0), record(events.click(1), 1), record(events.click(2), 5)]
    assert land(one, held, again) == Tally(landed=2, duplicates=1)
    assert rows(database) == 2
    assert checkpoint(database) == (6, 2, 1, 0)


def test_every_value_lands_as_it_was_sent(store: Callable[[str], Store], database: psycopg.Connection) -> None:
    odd = "a\tb\\n\r\nN'\"\u4e00\U0001f600"
    plain = events.impression(1)
    plain.ClearField("source_time_us")
    full = events.impression(2)
    full.source_time_us, full.accepted_time_us, full.crawler = -1, 253_402_300_799_999_999, True
    full.slot = full.campaign_id = odd
    full.features.clear()
    full.features.update({odd: odd, "empty": ""})
    topic = events.topic_of(full)
    one = store("one")
    held = one.claim({(topic, 3): Watermarks(0, 10)}, {topic: "topic-1"})
    records = [record(each, number, partition=3) for number, each in enumerate((plain, full))]
    decoded = Decoder(by_topic(contract.load())).batch(cast("Sequence[Record]", records), {(topic, 3): 0})
    assert one.land(decoded, held) == {(topic, 3): Tally(landed=2)}
    first, second = database.execute(
        "SELECT event_id, source_time, extract(epoch FROM accepted_time) * 1000000, node, crawler, slot, campaign_id,"
        " features, record_partition, record_offset FROM warehouse.impression ORDER BY record_offset"
    ).fetchall()
    assert (first[0].hex, first[1], first[2]) == (plain.event_id, None, plain.accepted_time_us)
    assert second == (
        UUID(full.event_id),
        datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC),
        full.accepted_time_us,
        full.node,
        True,
        odd,
        odd,
        {odd: odd, "empty": ""},
        3,
        1,
    )


def bad_values() -> list[Fetched]:
    no_id = events.click(3)
    no_id.event_id = "not an id"
    nul = events.click(4)
    nul.slot = "a\0b"
    no_time = events.click(5)
    no_time.accepted_time_us = 0
    far = events.click(6)
    far.source_time_us = 2**63 - 1
    no_node = events.click(7)
    no_node.node = ""
    return [record(event, 10 + n) for n, event in enumerate((no_id, nul, no_time, far, no_node))]


def test_records_that_the_database_refuses_are_buried_and_the_rest_lands(
    store: Callable[[str], Store], database: psycopg.Connection
) -> None:
    one = store("one")
    bad = bad_values()
    good = [record(events.click(100 + n), n) for n in (*range(10), *range(20, 29))]
    tally = land(one, claim(one), sorted(good + bad, key=Fetched.offset))
    assert tally == Tally(landed=19, dead_letters=5)
    assert rows(database) == 19
    letters = database.execute("SELECT position, cause, payload FROM bridge.dead_letter ORDER BY position").fetchall()
    own, theirs = "NOT_OF_ITS_TYPE", "REFUSED_BY_DATABASE"
    causes = [own, theirs, theirs, own, theirs]
    assert letters == [(each.offset(), cause, each.payload) for each, cause in zip(bad, causes, strict=True)]
    assert checkpoint(database) == (29, 19, 0, 5)


@pytest.mark.parametrize(
    ("poisoned", "cause"),
    [
        (Fetched((TOPIC, 0, 0), b"\xff\xff", record(events.click(1), 0).sent_headers), "UNREADABLE"),
        (Fetched((TOPIC, 0, 0), None, record(events.click(1), 0).sent_headers), "UNREADABLE"),
        (record(events.click(1), 0, kind=b"isthmus.events.v1.Swipe"), "UNKNOWN_KIND"),
        (record(events.click(1), 0, kind=None), "UNKNOWN_KIND"),
        (record(events.click(1), 0, origin=b"private"), "FOREIGN_ORIGIN"),
        (record(events.click(1), 0, kind=b"\xff\0", node=b"\0\xff"), "UNKNOWN_KIND"),
    ],
)
def test_what_a_topic_may_not_carry_is_kept_whole_and_not_landed(
    store: Callable[[str], Store], database: psycopg.Connection, poisoned: Fetched, cause: str
) -> None:
    one = store("one")
    tally = land(one, claim(one), [poisoned, record(events.click(2), 1)])
    assert tally == Tally(landed=1, dead_letters=1)
    ((found, payload, headers),) = database.execute("SELECT cause, payload, headers FROM bridge.dead_letter").fetchall()
    assert (found, payload) == (cause, poisoned.payload)
    assert [header["name"] for header in headers] == list(poisoned.sent_headers)


def test_a_broken_traceparent_costs_the_trace_and_not_the_event(
    store: Callable[[str], Store], database: psycopg.Connection
) -> None:
    one = store("one")
    assert land(one, claim(one), [record(events.click(1), 0, traceparent=b"00-zz")]) == Tally(landed=1)
    assert database.execute("SELECT trace_id FROM warehouse.click").fetchone() == (None,)


@pytest.mark.parametrize(("low", "high"), [(5, 1000), (0, 2)], ids=["removed unread", "cut off"])
def test_a_log_that_lacks_what_has_not_landed_is_not_claimed(
    store: Callable[[str], Store], database: psycopg.Connection, low: int, high: int
) -> None:
    one = store("one")
    land(one, claim(one), [record(events.click(n), n) for n in range(3)])
    with pytest.raises(GapError, match=r"isthmus\.click\.v1/0"):
        claim(store("two"), low, high)
    assert database.execute("SELECT epoch, worker FROM bridge.checkpoint").fetchall() == [(1, "one")]


def test_a_topic_made_anew_is_not_claimed(store: Callable[[str], Store]) -> None:
    one = store("one")
    land(one, claim(one), [record(events.click(0), 0)])
    with pytest.raises(GapError, match="made anew"):
        one.claim({PLACE: Watermarks(0, 1000)}, {TOPIC: "topic-2"})


def test_a_transaction_that_fails_leaves_no_row_and_no_offset(
    store: Callable[[str], Store], database: psycopg.Connection
) -> None:
    one = store("one")
    held = claim(one)
    database.execute("ALTER TABLE bridge.checkpoint ADD CONSTRAINT broken CHECK (landed = 0) NOT VALID")
    with pytest.raises(psycopg.errors.CheckViolation):
        land(one, held, [record(events.click(1), 0)])
    assert rows(database) == 0
    assert checkpoint(database) == (0, 0, 0, 0)


def test_the_ledger_counts_alike_whether_all_is_new_or_some_came_before(
    store: Callable[[str], Store], database: psycopg.Connection
) -> None:
    one = store("one")
    held = claim(one)
    assert land(one, held, [record(events.click(n), n) for n in range(3)]) == Tally(landed=3)
    mixed = [record(events.click(n), offset) for offset, n in enumerate((2, 3, 3, 4), 3)]
    assert land(one, Claim(held.epoch, 3), mixed) == Tally(landed=2, duplicates=2)
    lines = database.execute(
        "SELECT node, topic, partition, sum(landed), sum(duplicates) FROM bridge.ledger GROUP BY 1, 2, 3"
    )
    assert lines.fetchall() == [("edge-1", TOPIC, 0, 5, 2)]
    minutes = database.execute(
        "SELECT count(*) FROM (SELECT date_trunc('minute', accepted_time) FROM warehouse.click"
        " EXCEPT SELECT minute FROM bridge.ledger) AS missing"
    )
    assert minutes.fetchall() == [(0,)]
