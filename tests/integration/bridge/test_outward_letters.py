"""What was stopped on its way outward can be sent after all, and never overwrites what is newer."""

from collections.abc import Callable, Iterator

import psycopg
import pytest

from mesh import contract
from sync_bridge.inbound.decoder import Decoder
from sync_bridge.inbound.replay import Replayed, replay
from sync_bridge.inbound.store import Store
from sync_bridge.inbound.tables import TABLES, by_topic
from sync_bridge.kafka import libpq_url
from sync_bridge.ledger.settlement import Selection
from tests.integration.bridge.cluster import until
from tests.integration.bridge.test_outbound import (  # noqa: F401 (fixtures)
    TOPIC,
    Edge,
    Running,
    append,
    campaign,
    edge,
    start_relay,
    waiting,
)
from tests.integration.room import own

UNKNOWN_FIELD = b"\xfa\x07\x05hello"


@pytest.fixture
def again(database_url: str) -> Iterator[Callable[[], Replayed]]:
    """Replay every open letter, as the inward bridge does for an operator."""
    store = Store(libpq_url(own(database_url, "bridge-inbound")), "operate", 10.0, TABLES)
    yield lambda: replay(store, Decoder(by_topic(contract.load())), Selection(all=True))
    store.close()


def bury(database: psycopg.Connection, key: str, payload: bytes, position: int) -> None:
    """A letter whose content the gate of now lets pass: a build before this one did not know the event."""
    database.execute(
        "INSERT INTO bridge.dead_letter (direction, topic, position, cause, detail, record_key, payload)"
        " VALUES ('outward', %s, %s, 'UNKNOWN_FIELD', '', %s, %s)",
        (TOPIC, position, key.encode(), payload),
    )


def letters(database: psycopg.Connection) -> list[tuple[object, ...]]:
    return database.execute(
        "SELECT state, attempts, payload FROM bridge.dead_letter ORDER BY dead_letter_id"
    ).fetchall()


def test_a_letter_goes_out_when_the_gate_lets_it_pass_now(
    database: psycopg.Connection,
    edge: Edge,  # noqa: F811
    start_relay: Callable[[str], Running],  # noqa: F811
    again: Callable[[], Replayed],
) -> None:
    bury(database, "summer", campaign("summer", 3), 1)
    assert again() == Replayed(sent_again=1)
    assert again() == Replayed()
    start_relay("relay-1")
    until(lambda: edge.versions() == [("summer", 3)], "the record arrives")
    assert letters(database) == [("replayed", 2, campaign("summer", 3))]


def test_what_the_gate_stops_again_is_a_letter_again(
    database: psycopg.Connection,
    edge: Edge,  # noqa: F811
    start_relay: Callable[[str], Running],  # noqa: F811
    again: Callable[[], Replayed],
) -> None:
    leak = campaign("summer", 1) + UNKNOWN_FIELD
    append(database, "summer", leak)
    start_relay("relay-1")
    until(lambda: letters(database) == [("open", 1, leak)], "the leak is stopped")
    assert again() == Replayed(sent_again=1)
    until(lambda: letters(database)[1:] == [("open", 1, leak)], "it is stopped again")
    assert letters(database)[0][0] == "replayed"
    assert edge.versions() == []


def test_a_newer_state_that_was_sent_settles_the_letter_and_one_that_waits_keeps_it_back(
    database: psycopg.Connection,
    edge: Edge,  # noqa: F811
    start_relay: Callable[[str], Running],  # noqa: F811
    again: Callable[[], Replayed],
) -> None:
    append(database, "summer", campaign("summer", 2))
    bury(database, "summer", campaign("summer", 1), 0)
    bury(database, "winter", campaign("winter", 1), 0)
    outcome = again()
    assert (outcome.sent_again, [letter.detail[:13] for letter in outcome.failed]) == (1, ["a newer state"])
    assert waiting(database) == 2
    start_relay("relay-1")
    until(lambda: len(edge.versions()) == 2, "what waits is sent")
    until(lambda: letters(database)[0][::2] == ("dropped", None), "the older state is given up")
    assert edge.versions() == [("summer", 2), ("winter", 1)]
    assert again() == Replayed()


def test_of_several_letters_of_a_key_the_last_one_counts(
    database: psycopg.Connection, again: Callable[[], Replayed]
) -> None:
    for version in (1, 2, 3):
        bury(database, "summer", campaign("summer", version), version)
    assert again() == Replayed(sent_again=1, superseded=2)
    assert [letter[0] for letter in letters(database)] == ["dropped", "dropped", "replayed"]
    assert database.execute("SELECT key, payload FROM outbox.event").fetchall() == [("summer", campaign("summer", 3))]
